"""What a report calls the things of a task, and which of its metrics stand where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from studies.evaluation.figures import DataFacts, SystemsEvaluation


@dataclass(frozen=True)
class TaskWords:
    """The words of one task; a metric is a pair of title and meaning, in which {k} is the length of a list.

    Attributes:
        shot: One example of a support.
        each: What there are so many of it for, behind it; "" for the whole support.
        in_each: The end of a phrase on the support of each scene.
        scene: What recalls are averaged over.
        named: Whether the scenes have names that say something to the reader.
        title: What the report is about, behind the study's name.
        unseen: What sets the test scenes apart, behind their number.
        metrics: All metrics by name, "recall" and "over_reference" first.
        quality: The caption of the table of metrics that say how good a system is, and these.
        reach: The same of those that say for whom.
        optional: Those that stand nowhere where no system has them.
        overview: Those of the terminal's table, behind recall and its difference from the reference.
        query_counts: What each kind of query is, after its number.
        predicted: What is predicted for each query under a protocol, as the end of a sentence.
        part: What sets the scenes of another part apart, behind their number; {part} is its name.
        floor: The baselines over whose best a lift is counted.
        fresh: What is said of scenes that are scored, before their name.
    """

    shot: str
    each: str
    in_each: str
    scene: str
    named: bool
    title: str
    unseen: str
    metrics: Mapping[str, tuple[str, str]]
    quality: tuple[str, tuple[str, ...]]
    reach: tuple[str, tuple[str, ...]]
    optional: tuple[str, ...]
    overview: tuple[str, ...]
    query_counts: Mapping[str, str]
    predicted: Callable[[Mapping[str, Any]], str]
    part: str
    floor: str
    fresh: str = "unseen "

    @property
    def shots(self) -> str:
        """Return what a support has so many of, in the plural."""
        return f"{self.shot}s{self.each}"

    def support(self, shots: int) -> str:
        """Return the size of a support in words; where there is none, what takes its place."""
        if shots == 0:
            return "training"
        return f"{shots} {self.shot}{'' if shots == 1 else 's'}{self.each}"


def _ranked(protocol: Mapping[str, Any]) -> str:
    return f"every item {'of the whole catalogue' if protocol['candidates'] == 'all' else 'of the scene'} ranked"


RANKING = TaskWords(
    shot="interaction",
    each="",
    in_each=" each",
    scene="scene",
    named=True,
    title="how well new scenes are served",
    unseen=" that neither training nor the search ever saw, in the log's last period",
    metrics={
        "recall": (
            "recall@{k}",
            "relevant items among the top {k}, over all relevant items of the query. The denominator counts all of "
            "them, also where they are more than {k}: such a query cannot reach 1.",
        ),
        "over_reference": (
            "over support popularity",
            "difference of recall from that baseline, paired scene by scene; the baseline counts what sold in the "
            "support and reads no text.",
        ),
        "ndcg": (
            "nDCG@{k}",
            "relevant items in the top, each discounted by the logarithm of its rank, over the same for an ideal "
            "ranking.",
        ),
        "mrr": ("MRR", "one over the rank of the first relevant item, in the whole ranking."),
        "hit_rate": ("hit rate@{k}", "share of queries with any relevant item among the top {k}."),
        "precision": ("precision@{k}", "relevant items among the top {k}, over {k}."),
        "accuracy": ("accuracy@1", "share of queries whose first item is relevant."),
        "new_item_recall": ("recall of new items", "recall over those relevant items that are not in the support."),
        "cold_user_recall": ("recall of cold users", "recall of queries whose user has no history at all."),
        "coverage": ("coverage", "candidates in anyone's top {k}, over all candidates of the scene."),
        "popularity": (
            "popularity",
            "how many of the scene's users take a recommended item, over the same for the average candidate: 1 is "
            "average. It describes a ranking and is no goal.",
        ),
    },
    quality=(
        "How good the rankings are",
        ("recall", "over_reference", "ndcg", "mrr", "hit_rate", "precision", "accuracy"),
    ),
    reach=(
        "For whom, and what is recommended",
        ("new_item_recall", "cold_user_recall", "coverage", "popularity"),
    ),
    optional=(),
    overview=("new_item_recall", "ndcg", "mrr", "hit_rate"),
    query_counts={
        "new_item_queries": "of the queries have a relevant item that is not in the support",
        "cold_user_queries": "come from users without history",
    },
    predicted=_ranked,
    part=", in the {part} period",
    floor="what reads no text",
)
CLASSIFICATION = TaskWords(
    shot="labelled text",
    each=" of each class",
    in_each="",
    scene="episode",
    named=False,
    title="how well new classes are told apart",
    unseen=", with classes that neither training nor the search ever saw",
    metrics={
        "recall": (
            "macro recall",
            "recall of a class, averaged over the classes of an episode (balanced accuracy).",
        ),
        "over_reference": (
            "over frozen centroids",
            "difference of macro recall from the centroids of the frozen encoder, paired episode by episode.",
        ),
        "accuracy": ("accuracy", "share of queries whose class is predicted."),
        "f1": ("macro-F1", "F1 of a class, averaged over the classes; 0 for one that is never predicted."),
        "log_loss": ("log loss", "mean negative log probability of the right class; lower is better."),
        "coverage": ("coverage at 0.9", "share of queries with a predicted probability of at least 0.9."),
        "confident_accuracy": ("accuracy at 0.9", "accuracy on these queries."),
        "roc_auc": ("ROC-AUC", "area under the ROC curve, of two classes alone."),
        "average_precision": ("average precision", "the same of the precision-recall curve."),
    },
    quality=("How well classes are told apart", ("recall", "over_reference", "accuracy", "f1", "log_loss")),
    reach=(
        "How far probabilities can be relied on",
        ("coverage", "confident_accuracy", "roc_auc", "average_precision"),
    ),
    optional=("roc_auc", "average_precision"),
    overview=("f1", "log_loss", "coverage", "confident_accuracy"),
    query_counts={"classes": "classes in all"},
    predicted=lambda protocol: f"each classified among {protocol['ways']} classes",
    part=", with {part} classes",
    floor="the baselines",
)
# Of known classes: what is resampled are labels, or parts of them.
KNOWN_CLASSES = replace(
    CLASSIFICATION,
    scene="label",
    named=True,
    title="how well texts of known classes are told apart",
    unseen=", of texts that neither training nor the search ever saw",
    metrics={
        **CLASSIFICATION.metrics,
        "recall": ("macro recall", "recall of a class, averaged over the classes (balanced accuracy)."),
        "over_reference": (
            "over frozen centroids",
            "difference of macro recall from the centroids of the training texts by the frozen encoder, paired label "
            "by label.",
        ),
        "accuracy": ("accuracy", "share of texts whose class is predicted; of all texts at once, as what follows."),
    },
    predicted=lambda protocol: "each classified among all classes",
    fresh="",
)
# Of known classes in scenes: what is resampled are scenes.
SCENES = replace(
    CLASSIFICATION,
    scene="scene",
    named=True,
    title="how well texts of known classes are told apart in new scenes",
    unseen=" that neither training nor the search ever saw",
    metrics={
        **CLASSIFICATION.metrics,
        "recall": (
            "macro recall",
            "recall of a class, averaged over the classes (balanced accuracy), then over the episodes of a scene.",
        ),
        "over_reference": (
            "over logistic regression",
            "difference of macro recall from logistic regression over the frozen encoder, trained on the rows of "
            "training scenes, paired scene by scene; it does not adapt.",
        ),
        "roc_auc": ("ROC-AUC", "area under the ROC curve, of two classes alone; of chance .5, however rare one is."),
        "average_precision": (
            "average precision",
            "the same of the precision-recall curve for the second class; of chance the share of that class.",
        ),
    },
    quality=(
        "How well classes are told apart",
        ("recall", "over_reference", "roc_auc", "average_precision", "accuracy", "f1", "log_loss"),
    ),
    reach=("How far probabilities can be relied on", ("coverage", "confident_accuracy")),
    overview=("roc_auc", "average_precision", "f1", "log_loss"),
    predicted=lambda protocol: "each classified among all classes",
    part="",
)
# By the name of the task, and of its protocol where it has several.
WORDS = {
    ("ranking", ""): RANKING,
    ("classification", "new classes"): CLASSIFICATION,
    ("classification", "known classes"): KNOWN_CLASSES,
    ("classification", "scenes of known classes"): SCENES,
}
# Short titles for the terminal's table.
SHORT = {"new_item_recall": "new items", "hit_rate": "hit rate"}


def words_for(task: str, kind: str) -> TaskWords:
    """Return the words of a task and of the kind of its protocol."""
    return WORDS[task, kind]


def words_of(evaluation: SystemsEvaluation) -> TaskWords:
    """Return the words of an evaluation."""
    return words_for(evaluation.task, evaluation.kind)


def titled(evaluation: SystemsEvaluation) -> dict[str, tuple[str, str]]:
    """Return title and meaning of each metric of an evaluation."""
    k = evaluation.metric.rpartition("@")[2]
    return {
        name: (title.replace("{k}", k), meaning.replace("{k}", k))
        for name, (title, meaning) in words_of(evaluation).metrics.items()
    }


def data_size(data: DataFacts) -> str:
    """Return how much data there is, in words."""
    return ", ".join(f"{count:,} {what}" for what, count in data.counts.items())
