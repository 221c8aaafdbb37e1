"""A learner that is added at run time, by a class and an entry in the registry, goes through a whole search."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from torch import Tensor

from distill.evaluation import StudyEvaluation
from hpo.dashboard import note, plots
from hpo.dashboard.study_facts import Gatherer
from hpo.ownership import owned_search
from hpo.registry import register
from hpo.reporting.renderers.page import write
from hpo.reporting.study_report import study_document
from hpo.search.loop import Search
from storage.errors import InputError
from studies.config.hyperparameters import Hyperparameters
from studies.config.search_domains import Range
from studies.config.search_parameters import default_space
from studies.config.search_section import SearchSection
from studies.learners.base import Learner
from studies.learners.inner_loop import Task
from studies.learners.registry import LEARNERS, LearnerEntry
from studies.training.memory import Shape, refuse_too_large, trial_bytes
from studies.training.objective import load_teacher, run_trial
from studies.training.prepare import prepare
from studies.training.problem import Problem
from tests import report_document
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec


class BothLosses(Learner):
    """Adapts the head; its outer loop descends on the queries' loss before and after."""

    entry = LearnerEntry(
        name="both",
        implementation=f"{__name__}:BothLosses",
        adapts="head",
        paper="none",
        second_order=True,
        domains={"inner_steps": Range(low=2, high=3)},
    )

    def meta_loss(self, task: Task) -> Tensor:
        """Return the sum of both losses."""
        return task.query_loss({}) + super().meta_loss(task)


@pytest.fixture
def problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Problem:
    monkeypatch.setitem(LEARNERS, "both", BothLosses.entry)
    spec = tiny_spec(
        tiny_encoder(tmp_path / "encoder"),
        search={
            "trials": 3,
            "sampler": "random",
            "start": [{"learner": "both"}],
            "space": {"learner": ["both", "protonet"], "trainable_layers": 0},
        },
        pruner={"kind": "none"},
    )
    return prepare(spec, tmp_path / "cache", data=planted_dataset())


def test_a_learner_needs_no_more_than_a_class_and_an_entry(database, problem, tmp_path):
    """Another list of names, a formula or a colour for each would fail long after the learner was written."""
    spec, scenes = problem.spec, {problem.data.scenes[episode.scene] for episode in problem.validation}
    register(database, spec, problem.data.fingerprint)
    search = Search(database, spec, scenes, partial(run_trial, problem))
    while search.run_next() is not None:
        pass
    first, *_ = search.study.get_trials()
    assert first.params["learner"] == "both"
    assert first.params["both.inner_steps"] in (2, 3)
    assert 0 <= first.value <= 1
    assert isinstance(load_teacher(problem, owned_search(database, spec.name).trial_folder(first.number)), BothLosses)

    facts = Gatherer(database, spec).gather()
    figures = plots.of_search(facts)
    assert "both" in {trace["name"] for trace in figures["recall-against-cost"].data}
    assert any(str(trace["name"]).startswith("both (") for trace in figures["learners"].data)
    assert "| both |" in note.of_search(facts)

    evaluation = StudyEvaluation.model_validate(report_document.document()["evaluation"])
    page, *_ = write(study_document(database, spec, evaluation, None), tmp_path / "report")
    assert "both" in page.read_text(encoding="utf-8")


def test_its_memory_is_counted_by_its_entry(problem, monkeypatch):
    """A learner that the formula does not know would be started where it cannot fit."""
    values = Hyperparameters("both", inner_lr=0.1, inner_steps=3)
    shape = Shape.of(problem.train[0], problem.tokens.lengths)
    second = trial_bytes(values, shape, problem.encoder)
    monkeypatch.setitem(LEARNERS, "both", replace(BothLosses.entry, second_order=False))
    assert trial_bytes(values, shape, problem.encoder) < second
    with pytest.raises(InputError, match="both with trainable_layers = 0, inner_steps = 3"):
        refuse_too_large(
            SearchSection.model_validate({"space": {"learner": "both", "trainable_layers": 0}}),
            lambda values: trial_bytes(values, shape, problem.encoder),
            available=1,
        )


def test_study_files_take_its_name_and_offer_it(problem):
    """Refused as unknown, a learner that is there could not be searched."""
    assert "both" in default_space()["learner"]
    with pytest.raises(ValueError, match=r"accepted: protonet.*both"):
        SearchSection.model_validate({"space": {"learner": "xyz"}})
    with pytest.raises(ValueError, match="did you mean 'both'"):
        SearchSection.model_validate({"learners": {"bth": {"inner_steps": 1}}})
