"""Learners: one file each, behind the interface of `base.Learner`; `registry` lists them without importing them."""
