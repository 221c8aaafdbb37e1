"""A process that is killed in the midst of adapting an encoder; a module of its own, so that it starts quickly."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studies.adaptation import stage
from studies.adaptation.corpus import log_corpus
from studies.config.spec import StudySpec
from studies.episodes.split import split_scenes
from studies.model import encoder as encoders
from studies.model.encoder import Encoder
from studies.progress import Progress
from tests.synthetic import planted_dataset, tiny_spec

# Two objectives beside the one of pairs, so that their turns and the head's weights have to be resumed too.
SECTION = {"objectives": ["mlm", "contrastive", "cooccurrence"], "steps": 7, "batch_size": 16, "lr": 1e-3}


class Reporter:
    """Counts the steps of adapting that it sees, and ends after some of them."""

    def __init__(self, end: int | None = None) -> None:
        self.steps: list[int] = []
        self.notes: list[str] = []
        self._end = end

    def note(self, text: str) -> None:
        """Keeps the text."""
        self.notes.append(text)

    @contextmanager
    def progress(self, label: str) -> Iterator[Progress]:
        """Keeps the steps of adapting."""

        def reached(done: int, total: int) -> None:
            if label == "adapting the encoder":
                self.steps.append(done)
                if done == self._end:
                    os.kill(os.getpid(), signal.SIGKILL)

        yield reached


def study(model: Path) -> StudySpec:
    return tiny_spec(model, teacher={"adapt": SECTION})


def adapted(model: Path, reporter: Reporter) -> Encoder:
    """The encoder of the study, adapted unless it is already."""
    spec, data = study(model), planted_dataset()
    corpus = log_corpus(data, split_scenes(data, spec.protocol), spec.protocol)
    return stage.adapt(encoders.load(spec.teacher), corpus, spec.teacher, reporter)


def die_in_process(model: Path, home: Path) -> None:
    """Adapts with a checkpoint after each step, and is killed after the fourth."""
    os.environ["HPO_HOME"] = str(home)
    stage.SECONDS = 0.0
    adapted(model, Reporter(end=4))
