"""`hpo adapt --trials N`: searches how to train the encoder on the shop: with which objectives, how long, how fast.

A small Optuna study before the search of learners. Its figure is the validation recall of what costs seconds once the
encoder is adapted: the mean over the baseline that knows the encoder alone and a prototypical network over its frozen
vectors. The study is a file in the home's cache, named by a digest of what its figures follow from, and adapted
encoders are found by theirs (`studies/adaptation/stage.py`): an interrupted search resumes, a longer one keeps its
trials.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from hpo.results.outcome import AdaptSearchResult, AdaptTrial
from hpo.results.task_stages import STAGES
from hpo.status.console import Console
from storage.errors import InputError
from storage.files.store import check_store
from storage.home import cache_folder
from studies.adaptation.registry import OBJECTIVES
from studies.adaptation.section import AdaptSection
from studies.config.hyperparameters import Hyperparameters, applies
from studies.config.search_domains import middle
from studies.config.spec import StudySpec, parse_spec
from studies.evaluation.intervals import Interval, bootstrap
from studies.evaluation.metrics import Evaluation
from studies.model.device import full_precision
from studies.training.outer_loop import Trainer
from studies.training.prepare import prepare
from studies.training.problem import Problem

# Meta-updates of the prototypical network.
UPDATES = 60
# Other draws of the validation episodes, on which the best setting is compared again: on those that it was chosen on,
# its gain is too high.
REDRAWS = 3
# What is searched beside the objectives, one or two of them.
STEPS, RATES = (50, 400), (1e-5, 3e-4)
# Increase it whenever an equal setting gives another figure.
FORMAT = 1

# Recall per scene, the mean over the cheap learners.
Recalls = dict[str, float]


def search_adaptation(spec: StudySpec, trials: int, console: Console) -> AdaptSearchResult:
    """Search `[teacher.adapt]`'s objectives, steps and rate; its other keys stay as the study file has them.

    Args:
        spec: The study file; it need not have been launched, nor have the table.
        trials: Settings to try in all, those of an earlier call counted.
        console: For progress.

    Raises:
        InputError: No setting could be trained.
    """
    check_store()
    problem = prepare(spec.with_pretrained_encoder(), cache_folder(), reporter=console)
    search = _Search(spec, problem, console)
    journal = cache_folder() / "adaptation" / f"{search.digest}.log"
    journal.parent.mkdir(parents=True, exist_ok=True)
    with _alone(journal):
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            sampler=optuna.samplers.TPESampler(seed=spec.search.seed, n_startup_trials=5),
            study_name="adaptation",
            direction="maximize",
            load_if_exists=True,
        )
        search.begin(study)
        with console.progress("trying settings") as progress:
            while (done := len(_ended(study))) < trials:
                progress(done, trials)
                search.run(study, f"setting {done + 1} of {trials}")
            progress(trials, trials)
        return search.result(_ended(study)[:trials])


@contextmanager
def _alone(journal: Path) -> Iterator[None]:
    """Hold a search's lock within the block.

    Raises:
        InputError: Another process has it.
    """
    lock = FileLock(journal.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            "another process searches the training of this study's encoder: wait until it has ended, then repeat the "
            "command, which takes over its settings"
        ) from None
    try:
        yield
    finally:
        lock.release()


def with_table(spec: StudySpec, keys: dict[str, Any]) -> StudySpec:
    """Return a study whose `[teacher.adapt]` has these keys."""
    raw = spec.model_dump(mode="json")
    raw["teacher"]["adapt"] = keys
    return parse_spec(raw)


def cheap_learner(spec: StudySpec) -> Hyperparameters:
    """Return a prototypical network over a frozen encoder, with the middle of every other domain of the study."""
    space = type(spec.search).default_space() | spec.search.space
    names = [name for name in space if name not in ("learner", "trainable_layers") and applies(name, "protonet", 0)]
    return Hyperparameters(learner="protonet", trainable_layers=0, **{name: middle(space[name]) for name in names})


@dataclass(frozen=True)
class _Search:
    """What the settings share.

    Attributes:
        spec: The study file.
        problem: The study's data, under the pretrained encoder.
        console: For progress.
    """

    spec: StudySpec
    problem: Problem
    console: Console

    @cached_property
    def section(self) -> AdaptSection:
        """Return the table of the study file, or the defaults."""
        section = self.spec.teacher.adapt or with_table(self.spec, {}).teacher.adapt
        assert section is not None, "the keys of the table were given"
        return section

    @cached_property
    def digest(self) -> str:
        """Return the digest of all that a setting's figure is a function of."""
        told = {
            "format": FORMAT,
            "study": self.spec.with_pretrained_encoder().model_dump(mode="json", exclude={"name", "distill", "export"}),
            "keys": self.section.model_dump(mode="json", exclude={"objectives", "steps", "lr"}),
            "encoder": self.problem.encoder.identity,
            "data": self.problem.data.fingerprint,
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]

    def begin(self, study: optuna.Study) -> None:
        """Queue the study file's own setting first, and again what an interruption cut off."""
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state is TrialState.RUNNING:
                study.tell(trial.number, state=TrialState.FAIL)
                study.enqueue_trial(trial.params)
        if not trials:
            own = self.section
            steps, lr = (min(max(value, low), high) for value, (low, high) in ((own.steps, STEPS), (own.lr, RATES)))
            study.enqueue_trial({"objectives": "+".join(own.objectives), "steps": steps, "lr": lr})

    def run(self, study: optuna.Study, label: str) -> None:
        """Train and score one setting; one that cannot be trained fails, with the reason."""
        trial = study.ask()
        trial.suggest_categorical("objectives", self._objectives())
        trial.suggest_int("steps", *STEPS, log=True)
        trial.suggest_float("lr", *RATES, log=True)
        setting = _setting(trial.params)
        keys = self.keys(**setting)
        self.console.note(
            f"{label}: {', '.join(setting['objectives'])}; {setting['steps']} steps, lr = {setting['lr']}"
        )
        try:
            adapted = self._adapted(keys)
        except InputError as error:
            self.console.note(f"{label} failed: {error}")
            trial.set_user_attr("error", str(error))
            study.tell(trial, state=TrialState.FAIL)
            return
        recalls = self._recalls(adapted, self.problem.validation)
        gain = _gain(recalls, self._pretrained)
        self.console.note(f"{label}: {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] over the pretrained encoder")
        facts = adapted.encoder.adaptation
        assert facts is not None, "the table is there"
        trial.set_user_attr("recalls", recalls)
        trial.set_user_attr("seconds", facts.seconds)
        study.tell(trial, _mean(recalls))

    def keys(self, objectives: list[str], steps: int, lr: float) -> dict[str, Any]:
        """Return the table for a setting: the study file's keys, without those that its objectives do not read."""
        keys = self.section.model_dump(mode="json")
        for name in list(keys):
            readers = {each for each, entry in OBJECTIVES.items() if name in entry.keys}
            if readers and not readers & set(objectives):
                del keys[name]
        return keys | {"objectives": objectives, "steps": steps, "lr": lr}

    def result(self, trials: list[FrozenTrial]) -> AdaptSearchResult:
        """Return all settings, best first, and the best one's gain on other draws of the episodes.

        Raises:
            InputError: No setting could be trained.
        """
        found = sorted((trial for trial in trials if trial.value is not None), key=lambda trial: -(trial.value or 0))
        if not found:
            raise InputError(f"no setting could be trained; the last: {trials[-1].user_attrs['error']}")
        keys = self.keys(**_setting(found[0].params))
        redrawn = self.problem.redrawn("validation", REDRAWS)
        with self.console.progress("comparing the best on other draws") as progress:
            best = self._recalls(self._adapted(keys), redrawn)
            progress(1, 2)
            before = self._recalls(self.problem, redrawn)
            progress(2, 2)
        return AdaptSearchResult(
            study=self.spec.name,
            metric=self.spec.metric,
            learners=(STAGES[self.spec.task].frozen, "protonet"),
            before=_mean(self._pretrained),
            trials=tuple(self._row(trial) for trial in found),
            failed=tuple(trial.user_attrs["error"] for trial in trials if trial.value is None),
            redrawn=_gain(best, before),
            table={name: value for name, value in keys.items() if value != self._default(name)},
        )

    def _row(self, trial: FrozenTrial) -> AdaptTrial:
        recalls = trial.user_attrs["recalls"]
        gain, seconds = _gain(recalls, self._pretrained), trial.user_attrs["seconds"]
        return AdaptTrial(**_setting(trial.params), recall=_mean(recalls), gain=gain, seconds=seconds)

    def _default(self, name: str) -> Any:
        """Return the default of a key; of those that were searched nothing, so that they are always written."""
        return None if name in ("objectives", "steps", "lr") else type(self.section).model_fields[name].default

    def _objectives(self) -> list[str]:
        known = self.section.known()
        own = "+".join(self.section.objectives)
        sets = ["+".join(each) for size in (1, 2) for each in itertools.combinations(known, size)]
        return [own, *(each for each in sets if set(each.split("+")) != set(own.split("+")))]

    @cached_property
    def _pretrained(self) -> Recalls:
        return self._recalls(self.problem, self.problem.validation)

    def _adapted(self, keys: dict[str, Any]) -> Problem:
        spec = with_table(self.spec, keys)
        return prepare(spec, cache_folder(), reporter=self.console, data=self.problem.data)

    def _recalls(self, problem: Problem, episodes: list[Any]) -> Recalls:
        """Return the mean recall of the cheap learners in each scene."""
        learner = problem.learner(cheap_learner(self.spec))
        Trainer(learner, problem.train, UPDATES, seed=self.spec.search.seed).train_to(UPDATES)
        frozen = problem.baselines("validation")[STAGES[self.spec.task].frozen]
        with full_precision():
            found = (problem.score(frozen, episodes), problem.evaluate(learner, episodes))
        return _over_learners(found)


def _over_learners(found: tuple[Evaluation, ...]) -> Recalls:
    return {name: sum(each.scenes[name].recall for each in found) / len(found) for name in found[0].scenes}


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    """Return the settings that were tried to the end: scored, or failed for a reason."""
    return [each for each in study.get_trials(deepcopy=False) if each.value is not None or "error" in each.user_attrs]


def _setting(params: dict[str, Any]) -> dict[str, Any]:
    """Return a trial's parameters as keys of the table; a rate with the two digits that it is printed with."""
    return params | {"objectives": params["objectives"].split("+"), "lr": float(f"{params['lr']:.2g}")}


def _mean(recalls: Recalls) -> float:
    return sum(recalls.values()) / len(recalls)


def _gain(ours: Recalls, theirs: Recalls) -> Interval:
    """Return the mean difference over scenes, with its interval."""
    return bootstrap(np.array([ours[name] - theirs[name] for name in theirs]))
