"""SetFit 1.x on episodes: its documented defaults, and the settings that its documentation says to search.

Source: Tunstall et al., "Efficient Few-Shot Learning Without Prompts" (2022). Without a number of iterations its
defaults draw as many equal pairs as there are pairs of different classes; `num_iterations` was the paper's way to
bound them.
"""

from __future__ import annotations

import copy
import io
import os
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from classifiers.few_shot import Predict, as_texts
from studies.classification.data.dataset import LabelledTexts
from studies.classification.episode import LabelledEpisode
from studies.config.definition import TeacherSection
from studies.model.encoder import locate


@dataclass(frozen=True)
class Settings:
    """What SetFit trains with; the defaults are its own.

    Attributes:
        learning_rate: Of the body.
        iterations: Pairs of each kind for each text; None for oversampling.
        epochs: Passes over the pairs.
        template: Makes a text of a class's name; None where names are not read.
        copies: Texts that are made of each name.
    """

    learning_rate: float = 2e-5
    iterations: int | None = None
    epochs: int = 1
    template: str | None = None
    copies: int = 2

    def __str__(self) -> str:
        """Return the settings in short."""
        pairs = "all pairs" if self.iterations is None else f"{self.iterations} iterations"
        names = "" if self.template is None else f", {self.template!r} {self.copies}x"
        return f"SetFit at {self.learning_rate:g}, {pairs}, {self.epochs} epochs{names}"


def defaults(*, names: bool) -> Settings:
    """The documented defaults, with the default template of names or without names."""
    return Settings(template="This sentence is {}" if names else None)


def grid(shots: int, *, names: bool) -> Sequence[Settings]:
    """The settings to choose from: around the documented rate and above, which suits fewer steps.

    Only one text of a class has so few pairs that all can be drawn within seconds; otherwise iterations bound them.
    """
    rates = (2e-5, 1e-4, 3e-4)
    if names:
        iterations = 3 if shots == 1 else 2
        return [Settings(r, iterations, template=text) for r, text in product(rates, ("{}", "This sentence is {}"))]
    if shots == 1:
        return [Settings(rate, epochs=epochs) for rate, epochs in product((*rates, 1e-3), (1, 3))]
    return [Settings(rate, iterations=3) for rate in rates]


class SetFit:
    """SetFit with some settings.

    Training is in bf16 where ours is, which halves its time on CPUs that have it.

    Args:
        data: The texts of the episodes.
        settings: What it trains with.
        bf16: Whether matrix products are in bf16.
    """

    def __init__(self, data: LabelledTexts, settings: Settings, *, bf16: bool) -> None:
        self._data, self._settings, self._bf16 = data, settings, bf16

    def adapt(self, episode: LabelledEpisode) -> Predict:
        """Train body and head; the seconds do not hold the loading of the model."""
        from datasets import Dataset
        from setfit import Trainer, TrainingArguments, get_templated_dataset

        texts, settings = as_texts(self._data, episode), self._settings
        rows = Dataset.from_dict({"text": texts.support, "label": texts.labels})
        with quiet(), tempfile.TemporaryDirectory() as folder:
            if settings.template is not None:
                rows = get_templated_dataset(
                    rows, candidate_labels=texts.names, template=settings.template, sample_size=settings.copies
                )
            model = _fresh()
            given = TrainingArguments(
                output_dir=folder,
                body_learning_rate=settings.learning_rate,
                num_iterations=settings.iterations,
                num_epochs=settings.epochs,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                show_progress_bar=False,
            )
            trainer = Trainer(model=model, args=given, train_dataset=rows)
            with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
                trainer.train_embeddings(*trainer.dataset_to_parameters(rows), args=given)
            trainer.train_classifier(*trainer.dataset_to_parameters(rows), args=given)

        def predict() -> Tensor:
            with quiet():
                return torch.as_tensor(model.predict(texts.queries, batch_size=64))

        return predict


_loaded: list[object] = []


def _fresh() -> object:
    """An untrained model; the body is read once and copied."""
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel
    from sklearn.linear_model import LogisticRegression

    if not _loaded:
        folder, _ = locate(TeacherSection())
        _loaded.append(SentenceTransformer(str(folder), device="cpu"))
    return SetFitModel(model_body=copy.deepcopy(_loaded[0]), model_head=LogisticRegression())


class quiet:  # noqa: N801 - reads as a verb
    """Keeps what a library prints while it trains to itself."""

    def __enter__(self) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        warnings.filterwarnings("ignore", module="torch.utils.data")
        self._streams = (redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()))
        for stream in self._streams:
            stream.__enter__()

    def __exit__(self, *raised: object) -> None:
        for stream in reversed(self._streams):
            stream.__exit__(None, None, None)
