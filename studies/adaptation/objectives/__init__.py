"""What an encoder is adapted with: one file per objective, with a row in `studies.adaptation.registry`."""
