"""Sections on recall: every system, scene by scene, and each against each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from hpo.reporting import drawings
from hpo.reporting.blocks import Cell, Drawing, Drawings, Row, Section, Table, Terms, Text, cell, figure, plural
from hpo.reporting.results import POPULARITY, SIGNED, Results
from studies.evaluation.intervals import Interval

MOST_SCENES = 60
MOST_LOSSES = 10
QUALITY = ("recall", "over_popularity", "ndcg", "mrr", "hit_rate", "precision", "accuracy")
REACH = ("new_item_recall", "cold_user_recall", "coverage", "popularity")


def metrics(k: int) -> dict[str, tuple[str, str]]:
    """Return title and meaning of each metric."""
    return {
        "recall": (
            f"recall@{k}",
            f"relevant items among the top {k}, over all relevant items of the query. The denominator counts all of "
            f"them, also where they are more than {k}: such a query cannot reach 1.",
        ),
        "over_popularity": (
            "over support popularity",
            "difference of recall from that baseline, paired scene by scene; the baseline counts what sold in the "
            "support and reads no text.",
        ),
        "ndcg": (
            f"nDCG@{k}",
            "relevant items in the top, each discounted by the logarithm of its rank, over the same for an ideal "
            "ranking.",
        ),
        "mrr": ("MRR", "one over the rank of the first relevant item, in the whole ranking."),
        "hit_rate": (f"hit rate@{k}", f"share of queries with any relevant item among the top {k}."),
        "precision": (f"precision@{k}", f"relevant items among the top {k}, over {k}."),
        "accuracy": ("accuracy@1", "share of queries whose first item is relevant."),
        "new_item_recall": ("recall of new items", "recall over those relevant items that are not in the support."),
        "cold_user_recall": ("recall of cold users", "recall of queries whose user has no history at all."),
        "coverage": ("coverage", f"candidates in anyone's top {k}, over all candidates of the scene."),
        "popularity": (
            "popularity",
            "how many of the scene's users take a recommended item, over the same for the average candidate: 1 is "
            "average. It describes a ranking and is no goal.",
        ),
    }


def systems(results: Results) -> Section:
    """Return the section with all metrics of all systems."""
    about, evaluation = metrics(results.evaluation.k), results.evaluation
    count = f"{evaluation.queries:,} queries in {plural(evaluation.scenes, 'scene')}"
    kinds = (
        f"{evaluation.new_item_queries:,} of the queries have a relevant item that is not in the support, "
        f"{evaluation.cold_user_queries:,} come from users without history."
    )

    def table(caption: str, keys: Sequence[str]) -> Table:
        rows: list[Row] = [[name, *(_metric(results, name, key) for key in keys)] for name in results.systems]
        return Table(caption, ["system", *(about[key][0] for key in keys)], rows)

    return Section(
        "systems",
        "All systems",
        [
            Text(
                f"Means over scenes with 95 % intervals, best recall first; {evaluation.shots} interactions to "
                f"adapt to. {count}: {kinds}"
            ),
            table("How good the rankings are", QUALITY),
            table("For whom, and what is recommended", REACH),
            Terms(list(about.values())),
        ],
    )


def overview(results: Results) -> Table:
    """Return the table of the terminal: every system with its main metrics, the best last."""
    evaluation = results.evaluation
    unseen = f"mean over {evaluation.scenes} unseen scenes [95 % interval]"
    means = ("new_item_recall", "ndcg", "mrr", "hit_rate")
    rows: list[Row] = []
    for name, system in sorted(evaluation.systems.items(), key=lambda item: item[1].recall.mean):
        over = Cell("") if name == POPULARITY else cell(system.over_popularity, SIGNED)
        others = (system.metric(key) for key in means)
        rows.append([name, cell(system.recall), over, *(figure(each.mean if each else None) for each in others)])
    return Table(
        f"{evaluation.part.capitalize()} {results.recall} after {evaluation.shots} interactions, {unseen}",
        ["system", results.recall, "over support popularity", "new items", f"nDCG@{evaluation.k}", "MRR", "hit rate"],
        rows,
    )


def recall_table(results: Results) -> Table:
    """Return the table of the dashboard's note: every system with its recall, the best first."""
    rows: list[Row] = [[name, cell(system.recall)] for name, system in results.systems.items()]
    return Table("", ["system", results.recall], rows)


def forest(results: Results) -> Section:
    """Return the section with each system's recall and interval as a drawing."""
    marks = [drawings.Mark(name, system.kind, system.recall) for name, system in results.systems.items()]
    popularity = next((mark.interval.mean for mark in marks if mark.label == results.popularity), None)
    axis = f"{results.recall}, mean over scenes and 95 % interval"
    label = f"{results.recall} of {len(marks)} systems with intervals, from {marks[0].label} down to {marks[-1].label}"
    caption = (
        "Each interval is of one system alone. Two systems are compared by their difference on the same scenes, which "
        "is often surer than overlapping intervals suggest: see the paired comparisons."
    )
    if popularity is not None:
        caption = f"The dashed line is support popularity. {caption}"
    svg = drawings.forest(marks, popularity, axis, label)
    return Section("recall", "Recall at a glance", [Drawings([Drawing(svg, caption)])])


def scenes(results: Results) -> Section | None:
    """Return the section with recall per scene of teacher, student and popularity."""
    teacher = results.teacher
    recalls = results.scene_recalls(teacher)
    if teacher is None or not recalls:
        return None
    parts = [name for name in (results.popularity, teacher, results.student) if name is not None]
    compared = results.student or results.popularity
    shown, selection = _selected(recalls, results.scene_recalls(compared), str(compared))
    columns = {name: [results.scene_recalls(name).get(scene) for scene in shown] for name in parts}
    systems = {
        name: (results.kind(name), values) for name, values in columns.items() if any(v is not None for v in values)
    }
    label = f"{results.recall} of {', '.join(systems)} in {plural(len(shown), 'scene')}"
    drawing = Drawing(drawings.scenes(shown, systems, results.recall, label), selection)
    table = _scene_table(results, "Every scene in figures", sorted(recalls, key=lambda scene: -recalls[scene]))
    return Section("scenes", "Scene by scene", [Drawings([drawing]), table])


def losses(results: Results) -> Section | None:
    """Return the section on the scenes in which distillation cost most."""
    loss = results.scene_differences(results.student, results.teacher)
    if not loss:
        return None
    worst = sorted((scene for scene in loss if loss[scene] < 0), key=loss.__getitem__)
    above = sum(difference > 0 for difference in loss.values())
    equal = len(loss) - len(worst) - above
    intro = (
        f"The student's recall is below its best teacher's in {len(worst)} of {plural(len(loss), 'scene')}, "
        f"above it in {above} and equal in {equal}."
    )
    if not worst:
        return Section("losses", "Where the student loses", [Text(intro)])
    table = _scene_table(results, f"The largest losses, at most {MOST_LOSSES}", worst[:MOST_LOSSES])
    return Section("losses", "Where the student loses", [Text(intro), table])


def pairs(results: Results) -> Section | None:
    """Return the section that compares every system with every other."""
    names = list(results.systems)
    differences: dict[tuple[str, str], Interval | None] = {}
    for one, other in combinations(names, 2):
        interval = results.difference(one, other)
        differences[one, other] = interval
        differences[other, one] = interval and Interval(-interval.mean, -interval.high, -interval.low)
    if not any(differences.values()):
        return None
    intro = (
        f"Difference of {results.recall}, row minus column, paired by scene, with its 95 % interval; bold where the "
        f"interval excludes zero. Of {plural(len(names) * (len(names) - 1) // 2, 'pair')} about one in twenty would "
        f"do so by chance if there were no differences at all."
    )

    def compared(row: str, column: str) -> Cell:
        if row == column:
            return Cell("")
        interval = differences[row, column]
        return cell(interval, SIGNED, strong=interval is not None and interval.excludes_zero)

    rows: list[Row] = [[row, *(compared(row, column) for column in names)] for row in names]
    table = Table("Paired comparisons", ["row minus column", *names], rows)
    return Section("pairs", "Each against each", [Text(intro), table], wide=len(names) > 6)


def _metric(results: Results, name: str, key: str) -> Cell:
    if key == "over_popularity" and name == results.popularity:
        return Cell("")
    return cell(results.systems[name].metric(key), SIGNED if key == "over_popularity" else "{:.3f}")


def _selected(recalls: dict[str, float], compared: dict[str, float], name: str) -> tuple[list[str], str]:
    """Return the scenes to draw, by falling recall of the teacher, and a sentence on the choice."""
    ordered = sorted(recalls, key=lambda scene: (-recalls[scene], scene))
    sentence = "Sorted by the recall of the best teacher."
    if len(ordered) <= MOST_SCENES:
        return ordered, f"All {plural(len(ordered), 'scene')}. {sentence}"
    half = MOST_SCENES // 2
    by_difference = sorted(ordered, key=lambda scene: compared.get(scene, recalls[scene]) - recalls[scene])
    kept = {*by_difference[:half], *by_difference[-half:]}
    return (
        [scene for scene in ordered if scene in kept],
        f"Of {len(ordered)} scenes, the {half} with the lowest and the {half} with the highest difference "
        f"between {name} and the best teacher. {sentence}",
    )


def _scene_table(results: Results, caption: str, names: Sequence[str]) -> Table:
    """Return recall of the main systems in scenes, and facts about these; a column without a value is left out."""
    facts = results.evaluation.scene_facts
    nearest = {scene: fact.nearest for scene, fact in facts.items() if fact.nearest is not None}
    columns: list[tuple[str, Mapping[str, float], str]] = [
        (str(results.teacher), results.scene_recalls(results.teacher), "{:.3f}"),
        (str(results.student), results.scene_recalls(results.student), "{:.3f}"),
        ("student − teacher", results.scene_differences(results.student, results.teacher), SIGNED),
        (str(results.popularity), results.scene_recalls(results.popularity), "{:.3f}"),
        ("candidates", {scene: fact.candidates for scene, fact in facts.items()}, "{:,}"),
        ("cosine to nearest training scene", nearest, "{:.2f}"),
        ("queries", {scene: fact.queries for scene, fact in facts.items()}, "{:,}"),
    ]
    columns = [column for column in columns if column[1]]
    rows: list[Row] = [[scene, *(figure(values.get(scene), form) for _, values, form in columns)] for scene in names]
    return Table(caption, ["scene", *(title for title, _, _ in columns)], rows)
