"""`Trainer.hyperparameter_search` of transformers over a `BertForSequenceClassification`, by Optuna with its pruner."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
from torch import Tensor

from classifiers.setfit_peer import quiet
from studies.classification.episode import LabelledEpisode
from studies.classification.problem import ClassificationProblem
from studies.classification.scoring.metrics import macro_recall
from studies.config.definition import TeacherSection
from studies.episodes.split import SplitName
from studies.model.device import uses_bf16
from studies.model.encoder import locate


@dataclass(frozen=True)
class Searched:
    """What the peer's search found.

    Attributes:
        recall: Validation macro recall, the best of any epoch of any trial.
        params: Its trial's parameters.
        trials: Number of trials.
        cost: CPU seconds, of training and evaluation.
        logits: (rows, classes) of the test.
    """

    recall: float
    params: dict[str, Any]
    trials: int
    cost: float
    logits: Tensor


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """The rows of a split as the Trainer reads them."""

    def __init__(self, problem: ClassificationProblem, batch: LabelledEpisode, tokenizer: Any) -> None:
        texts = [problem.data.texts[item] for item in batch.items[batch.query].tolist()]
        self._ids = tokenizer(texts, truncation=True, max_length=problem.spec.teacher.max_tokens)["input_ids"]
        self._labels = batch.query_labels.tolist()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": self._ids[row], "labels": self._labels[row]}


def search(problem: ClassificationProblem, rows: Mapping[SplitName, LabelledEpisode], budget: float) -> Searched:
    """Search until so many CPU seconds are spent; the last trial ends on its own, as ours does.

    Args:
        problem: The study's data.
        rows: The rows of each split.
        budget: CPU seconds.
    """
    from transformers import (
        AutoTokenizer,
        BertForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    folder, _ = locate(TeacherSection())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = {name: Rows(problem, batch, tokenizer) for name, batch in rows.items()}
    classes = len(problem.split.classes["train"])
    best: dict[str, Any] = {"recall": -1.0}
    trials: list[optuna.Trial] = []
    started = time.process_time()

    def space(trial: optuna.Trial) -> dict[str, Any]:
        trials.append(trial)
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [16, 32, 64]),
            "num_train_epochs": trial.suggest_int("num_train_epochs", 2, 4),
        }

    def objective(metrics: dict[str, float]) -> float:
        if metrics["eval_recall"] > best["recall"]:
            weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
            best.update(recall=metrics["eval_recall"], params=trials[-1].params, weights=weights)
        if time.process_time() - started >= budget:
            trials[-1].study.stop()
        return metrics["eval_recall"]

    def fresh() -> Any:
        return BertForSequenceClassification.from_pretrained(folder, num_labels=classes)

    with quiet(), tempfile.TemporaryDirectory() as place:
        given = TrainingArguments(
            output_dir=place,
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=uses_bf16(),
            per_device_eval_batch_size=64,
            seed=problem.spec.search.seed,
        )
        trainer = Trainer(
            args=given,
            model_init=fresh,
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=data["train"],
            eval_dataset=data["validation"],
            compute_metrics=_recall,
        )
        sampler = optuna.samplers.TPESampler(seed=problem.spec.search.seed)
        trainer.hyperparameter_search(
            space, objective, n_trials=1000, direction="maximize", backend="optuna", sampler=sampler
        )
        cost = time.process_time() - started
        model = fresh()
        model.load_state_dict(best["weights"])
        trainer.model = trainer.model_wrapped = model
        logits = torch.from_numpy(trainer.predict(data["test"]).predictions)
    return Searched(best["recall"], best["params"], len(trials), cost, logits)


def _recall(found: Sequence[Any]) -> dict[str, float]:
    logits, labels = found
    return {"recall": macro_recall(np.asarray(labels), np.asarray(logits).argmax(1))}
