"""Sections on recall: every system, scene by scene, and each against each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from hpo.reporting import drawings
from hpo.reporting.blocks import Cell, Drawing, Drawings, Row, Section, Table, Terms, Text, cell, figure, plural
from hpo.reporting.results import SIGNED, Results
from hpo.reporting.task_words import SHORT, titled
from studies.evaluation.intervals import Interval

MOST_SCENES = 60
MOST_LOSSES = 10


def systems(results: Results) -> Section:
    """Return the section with all metrics of all systems."""
    evaluation, words, about = results.evaluation, results.words, titled(results.evaluation)
    count = f"{evaluation.queries:,} queries in {plural(evaluation.scenes, words.scene)}"
    kinds = ", ".join(f"{evaluation.query_counts[kind]:,} {what}" for kind, what in words.query_counts.items())

    given = f"{words.support(evaluation.shots)} to adapt to" if evaluation.shots else "nothing to adapt to"

    def known(key: str) -> bool:
        return key not in words.optional or any(system.metric(key) for system in results.systems.values())

    def table(caption: str, names: Sequence[str]) -> Table:
        keys = [key for key in names if known(key)]
        rows: list[Row] = [[name, *(_metric(results, name, key) for key in keys)] for name in results.systems]
        return Table(caption, ["system", *(about[key][0] for key in keys)], rows)

    return Section(
        "systems",
        "All systems",
        [
            Text(
                f"Means over {words.scene}s with 95 % intervals, best recall first; "
                f"{given}. {': '.join(filter(None, [count, kinds]))}."
            ),
            table(*words.quality),
            table(*words.reach),
            Terms([meaning for key, meaning in about.items() if known(key)]),
        ],
    )


def overview(results: Results) -> Table:
    """Return the table of the terminal: every system with its main metrics, the best last."""
    evaluation, words, about = results.evaluation, results.words, titled(results.evaluation)
    unseen = f"mean over {evaluation.scenes} {words.fresh}{words.scene}s [95 % interval]"
    rows: list[Row] = []
    for name, system in sorted(evaluation.systems.items(), key=lambda item: item[1].recall.mean):
        over = Cell("") if name == evaluation.reference else cell(system.over_reference, SIGNED)
        others = (system.metric(key) for key in words.overview)
        rows.append([name, cell(system.recall), over, *(figure(each.mean if each else None) for each in others)])
    return Table(
        f"{evaluation.part.capitalize()} {results.recall} after {words.support(evaluation.shots)}, {unseen}",
        [
            "system",
            results.recall,
            about["over_reference"][0],
            *(SHORT.get(key, about[key][0]) for key in words.overview),
        ],
        rows,
    )


def recall_table(results: Results) -> Table:
    """Return the table of the dashboard's note: every system with its recall, the best first."""
    rows: list[Row] = [[name, cell(system.recall)] for name, system in results.systems.items()]
    return Table("", ["system", results.recall], rows)


def forest(results: Results) -> Section:
    """Return the section with each system's recall and interval as a drawing."""
    marks = [drawings.Mark(name, system.kind, system.recall) for name, system in results.systems.items()]
    reference = next((mark.interval.mean for mark in marks if mark.label == results.reference), None)
    axis = f"{results.recall}, mean over {results.words.scene}s and 95 % interval"
    label = f"{results.recall} of {len(marks)} systems with intervals, from {marks[0].label} down to {marks[-1].label}"
    caption = (
        "Each interval is of one system alone. Two systems are compared by their difference on the same "
        f"{results.words.scene}s, which is often surer than overlapping intervals suggest: see the paired comparisons."
    )
    if reference is not None:
        caption = f"The dashed line is {results.reference}. {caption}"
    svg = drawings.forest(marks, reference, axis, label)
    return Section("recall", "Recall at a glance", [Drawings([Drawing(svg, caption)])])


def scenes(results: Results) -> Section | None:
    """Return the section with recall per scene of teacher, student and reference, where scenes have names."""
    teacher = results.teacher
    recalls = results.scene_recalls(teacher)
    if teacher is None or not recalls or not results.words.named:
        return None
    parts = [name for name in (results.reference, teacher, results.student) if name is not None]
    compared = results.student or results.reference
    shown, selection = _selected(recalls, results.scene_recalls(compared), str(compared))
    columns = {name: [results.scene_recalls(name).get(scene) for scene in shown] for name in parts}
    systems = {
        name: (results.kind(name), values) for name, values in columns.items() if any(v is not None for v in values)
    }
    label = f"{results.recall} of {', '.join(systems)} in {plural(len(shown), results.words.scene)}"
    drawing = Drawing(drawings.scenes(shown, systems, results.recall, label), selection)
    table = _scene_table(
        results, f"Every {results.words.scene} in figures", sorted(recalls, key=lambda scene: -recalls[scene])
    )
    return Section(
        "scenes", f"{results.words.scene.capitalize()} by {results.words.scene}", [Drawings([drawing]), table]
    )


def losses(results: Results) -> Section | None:
    """Return the section on the scenes in which distillation cost most."""
    loss = results.scene_differences(results.student, results.teacher)
    if not loss or not results.words.named:
        return None
    worst = sorted((scene for scene in loss if loss[scene] < 0), key=loss.__getitem__)
    above = sum(difference > 0 for difference in loss.values())
    equal = len(loss) - len(worst) - above
    of_all = plural(len(loss), results.words.scene)
    intro = (
        f"The student's recall is below its best teacher's in {len(worst)} of {of_all}, "
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
        f"Difference of {results.recall}, row minus column, paired by {results.words.scene}, with its 95 % interval; "
        f"bold where the interval excludes zero. Of {plural(len(names) * (len(names) - 1) // 2, 'pair')} about one in "
        f"twenty would do so by chance if there were no differences at all."
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
    if key == "over_reference" and name == results.reference:
        return Cell("")
    return cell(results.systems[name].metric(key), SIGNED if key == "over_reference" else "{:.3f}")


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
        (str(results.reference), results.scene_recalls(results.reference), "{:.3f}"),
        ("candidates", {scene: fact.candidates for scene, fact in facts.items()}, "{:,}"),
        ("cosine to nearest training scene", nearest, "{:.2f}"),
        ("queries", {scene: fact.queries for scene, fact in facts.items()}, "{:,}"),
    ]
    columns = [column for column in columns if column[1]]
    rows: list[Row] = [[scene, *(figure(values.get(scene), form) for _, values, form in columns)] for scene in names]
    return Table(caption, [results.words.scene, *(title for title, _, _ in columns)], rows)
