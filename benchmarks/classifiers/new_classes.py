"""New classes: our searches, the student, what trains nothing, and SetFit, on the same test episodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifiers import setfit_peer
from classifiers.few_shot import FewShot, choose, record
from classifiers.journal import Journal
from classifiers.ours import Frozen, Student, Trial
from classifiers.searched import Best, distil, search
from classifiers.setfit_peer import SetFit
from storage.home import cache_folder
from studies.classification.problem import ClassificationProblem
from studies.config.hyperparameters import ENCODER
from studies.config.search_domains import Domain
from studies.config.spec import load_spec, parse_spec
from studies.model.device import uses_bf16
from studies.training.prepare import prepare

# From so many shots on an episode takes a peer minutes: `LONG` are of the test. A peer's settings are tried on `TRIED`
# of the validation.
MANY_SHOTS, LONG, TRIED = 20, 10, 4
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
SEARCHES: Mapping[str, Mapping[str, Domain]] = {
    "search": {},
    "search without names": {"class_names": "ignore"},
    "fine-tuning": {"learner": "finetune"},
    "ridge": {"learner": "ridge"},
}
# What each of ours is compared with: what may read the names of the classes with all, what may not with its like.
COMPARED: Mapping[str, Collection[str] | None] = {
    "search": None,
    "student": None,
    "search without names": ("frozen centroids", "logistic regression", "SetFit, defaults", "SetFit, tuned"),
}


@dataclass(frozen=True)
class Setup:
    """What a run compares.

    Attributes:
        problem: The study's data.
        folder: Of searches and records; what is there already is not done again.
        shots: Labelled texts of each class.
        episodes: Test episodes at each number of shots.
        quick: Whether the searches are cut short.
    """

    problem: ClassificationProblem
    folder: Path
    shots: Sequence[int]
    episodes: int
    quick: bool

    def test(self, shots: int) -> Sequence[Any]:
        """The test episodes."""
        count = self.episodes if shots < MANY_SHOTS else min(LONG, self.episodes)
        return self.problem.by_shots("test")[shots][:count]

    def validation(self, shots: int, count: int) -> Sequence[Any]:
        """The first validation episodes."""
        return self.problem.by_shots("validation")[shots][:count]


def setup(study: Path, folder: Path, shots: Sequence[int], episodes: int, *, quick: bool) -> Setup:
    """Read the study and its data."""
    raw = load_spec(study).model_dump(mode="json")
    raw["protocol"]["report_shots"] = list(shots)
    if quick:
        raw["protocol"]["episodes"] = 20
        raw["search"]["trials"] = 3
        space = {name: domain for name, domain in raw["search"]["space"].items() if name not in ENCODER}
        raw["search"]["space"] = space | {"trainable_layers": 0}
        raw["distill"] |= {"trials": 1, "embed_steps": 10, "rank_steps": 2}
    problem = prepare(parse_spec(raw), cache_folder())
    assert isinstance(problem, ClassificationProblem)
    return Setup(problem, folder, shots, episodes, quick)


def run(setup: Setup, export: Path | None = None, *, peers: bool) -> None:
    """Search, choose, and adapt to every test episode; `records` has what comes of it.

    Args:
        setup: What is compared.
        export: A student that is there already: nothing is searched, and it alone is compared.
        peers: Whether SetFit is compared too.
    """
    journal = records(setup.folder)
    shown = [shots for shots in setup.shots if shots in setup.problem.by_shots("test")]
    ours: Mapping[str, FewShot]
    if export is None:
        bests = searches(setup)
        for name, best in bests.items():
            print(f"{name}: {best.recall:.4f} on validation, {best.trials} trials in {best.cost:.0f} s; {best.params}")
        ours = our_systems(setup, bests, shown)
    else:
        ours = {"student": Student(setup.problem.data, export)}
    for shots in shown:
        systems = dict(ours) | frozen_systems(setup, journal, shots)
        if peers:
            systems |= peer_systems(setup, journal, shots)
        record(journal, "test", shots, systems, setup.test(shots))


def records(folder: Path) -> Journal:
    """The records of a run."""
    return Journal(folder / "records.jsonl")


def searches(setup: Setup) -> dict[str, Best]:
    """The best trial of the study's search, and of others that may spend as many CPU seconds."""
    found: dict[str, Best] = {}
    for name, changes in SEARCHES.items():
        first = found.get("search")
        trials, budget = (setup.problem.spec.search.trials, None) if first is None else (None, first.cost)
        found[name] = search(setup.problem, setup.folder / name, changes, trials, budget)
    return found


def our_systems(setup: Setup, bests: Mapping[str, Best], shown: Sequence[int]) -> dict[str, FewShot]:
    """The best trials and the exported student."""
    problem = setup.problem
    episodes = [episode for shots in shown for episode in setup.test(shots)]
    export, cost = distil(problem, bests["search"], setup.folder / "student")
    print(f"student: {problem.spec.distill.trials} trials in {cost:.0f} s")
    systems: dict[str, FewShot] = {
        name: Trial(problem, best.teacher(problem).learner, episodes) for name, best in bests.items()
    }
    return systems | {"student": Student(problem.data, export)}


def frozen_systems(setup: Setup, journal: Journal, shots: int) -> dict[str, FewShot]:
    """Centroids and logistic regression over the frozen encoder, C chosen on validation episodes."""
    found: dict[str, FewShot] = {
        "frozen centroids": Frozen(setup.problem, None),
        "frozen centroids + names": Frozen(setup.problem, None, names=True),
    }
    for name, reads in (("logistic regression", False), ("logistic regression + names", True)):
        strengths = {f"{name}, C = {c:g}": c for c in STRENGTHS}
        tried = {key: Frozen(setup.problem, c, names=reads, encodes=False) for key, c in strengths.items()}
        best = choose(journal, shots, tried, setup.validation(shots, 30))
        print(f"{shots} shots: chosen on validation: {best}")
        found[name] = Frozen(setup.problem, strengths[best], names=reads)
    return found


def peer_systems(setup: Setup, journal: Journal, shots: int) -> dict[str, FewShot]:
    """SetFit at its defaults, and with what is best on validation episodes; with names and without.

    With names its defaults take a minute and a half for five shots, so that they are tried at one shot alone. At 20
    shots all defaults would take minutes, and what was best at five shots stands for both.
    """
    data, bf16 = setup.problem.data, uses_bf16()
    found: dict[str, FewShot] = {}
    for reads, suffix in ((False, ""), (True, " + names")):
        if shots == 1 or (shots < MANY_SHOTS and not reads):
            found[f"SetFit{suffix}, defaults"] = SetFit(data, setfit_peer.defaults(names=reads), bf16=bf16)
        at = min(shots, 5)
        tried = {str(each): SetFit(data, each, bf16=bf16) for each in setfit_peer.grid(at, names=reads)}
        best = choose(journal, at, tried, setup.validation(at, TRIED))
        print(f"{shots} shots: chosen on validation: {best}")
        found[f"SetFit{suffix}, tuned"] = tried[best]
    return found
