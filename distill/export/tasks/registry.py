"""The registry of students that are exported: one row for each kind, which says what such an export alone has.

The counterpart of `studies.tasks`. Nothing here loads what a row names: a manifest is read without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from studies.config.definition import StudyDefinition

LEXICON = "lexicon.safetensors"
# Of a student of scenes that share items.
POPULARITY = "popularity.safetensors"


@dataclass(frozen=True)
class ExportedTask:
    """One kind of students, its parts as "module:name".

    Attributes:
        files: What such an export holds beside the encoder, its tokenizer and the head.
        export: Its `distill.export.task_export.TaskExport`.
        card: Its `distill.export.card.CardWords`.
        explain: The function from the study's data and an export to the `distill.export.tasks.explained.Explanations`.
        form: Its `distill.forms.form.StudentForm`.
        head: The function from the width of vectors and a learner's hyperparameters to a head of random weights.
        head_learner: The function from a head and the hyperparameters to the learner that adapts it over given vectors.
        server: What serves it in Python.
        verb: What serves it on the command line.
        opens_with: What serves it without scenetune; "" where nothing does.
    """

    files: tuple[str, ...]
    export: str
    card: str
    explain: str
    form: str
    head: str
    head_learner: str
    server: str
    verb: str
    opens_with: str = ""

    def blank_head(self, width: int, learner: Any, labels: tuple[str, ...] = (), *, elsewhere: bool = False) -> Any:
        """Return a head of random weights, with all those that adapting needs.

        Args:
            width: Size of a vector.
            learner: The hyperparameters by which it adapts.
            labels: Names of the classes that it knows, where it does not adapt to others.
            elsewhere: Whether it reads what is known of items elsewhere.
        """
        known = ({"labels": labels} if labels else {}) | ({"elsewhere": True} if elsewhere else {})
        return self.part("head")(width, learner, **known)

    def part(self, name: str) -> Any:
        """Import and return one of its parts."""
        module, _, found = getattr(self, name).partition(":")
        return getattr(import_module(module), found)


EXPORTED: dict[str, ExportedTask] = {
    "ranking": ExportedTask(
        files=(LEXICON,),
        export="distill.export.tasks.ranking:RankingExport",
        card="distill.export.tasks.ranking:CARD",
        explain="distill.export.tasks.explained_lists:explain",
        form="distill.forms.form:StudentForm",
        head="studies.learners.tasks.scene_head:scene_head",
        head_learner="studies.learners.tasks.scene_head:head_learner",
        server="distill.inference.StudentRecommender",
        verb="hpo recommend",
    ),
    "classification": ExportedTask(
        files=(),
        export="distill.export.tasks.classification:ClassificationExport",
        card="distill.export.tasks.classification:CARD",
        explain="distill.export.tasks.explained_texts:explain",
        form="distill.forms.form:StudentForm",
        head="studies.classification.learning.tasks:classifier_head",
        head_learner="studies.classification.learning.tasks:head_learner",
        server="distill.inference.StudentClassifier",
        verb="hpo classify",
    ),
    "scenes of known classes": ExportedTask(
        files=(),
        export="distill.export.tasks.classification:ClassificationExport",
        card="distill.export.tasks.classification:SCENES_CARD",
        explain="distill.export.tasks.explained_texts:explain",
        form="distill.forms.form:StudentForm",
        head="studies.classification.learning.tasks:classifier_head",
        head_learner="studies.classification.learning.tasks:head_learner",
        server="distill.inference.StudentClassifier",
        verb="hpo classify",
    ),
    "known classes": ExportedTask(
        files=(),
        export="distill.export.tasks.known_classes:KnownClassesExport",
        card="distill.export.tasks.known_classes:CARD",
        explain="distill.export.tasks.explained_texts:explain",
        form="distill.forms.sequence_classifier:SequenceClassifierForm",
        head="studies.classification.learning.linear_head:linear_head",
        head_learner="studies.classification.learning.linear_head:KnownClassesLearner",
        server="distill.inference.StudentClassifier",
        verb="hpo classify",
        opens_with='transformers.pipeline("text-classification", FOLDER, truncation=True)',
    ),
}


def exported_as(study: StudyDefinition) -> ExportedTask:
    """Return what an export of a study's students has."""
    return EXPORTED[study.student]
