"""Classifies from files: labelled texts to adapt to, and texts to classify.

`hpo classify` prints or writes what `classify` returns. All files are read and checked before the student is opened.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Column, Table
from rich.text import Text

from hpo.serving.text_files import read_rows, read_texts
from hpo.status.console import Console, plain
from storage.errors import InputError, quoted
from storage.files.atomic import atomic_write
from storage.files.outputs import check_place, named_failures
from studies.classification.data.label_faults import warn_of_labels
from studies.progress import Progress
from studies.text_form import PAIR, join_pair, normalise_text

# torch is imported with the student, after the files were checked.
if TYPE_CHECKING:
    from distill.serving.backends import Backend
    from distill.serving.text_classifier import Neighbour, TextClassifier

# Classes from which on there is a note: no student has been trained to tell so many apart.
MANY = 1000


@dataclass(frozen=True)
class Classified:
    """A text with its label.

    Attributes:
        text: As the file has it.
        label: The most probable one.
        probability: Of the label.
        probabilities: Of every label, where they were asked for.
        nearest: The labelled texts that are nearest to it, where they were asked for.
    """

    text: str
    label: str
    probability: float
    probabilities: Mapping[str, float] = field(default_factory=dict)
    nearest: Sequence[Neighbour] = ()

    def to_json(self) -> dict[str, object]:
        """Return the values of a line of JSON."""
        found = {"text": self.text, "label": self.label, "probability": self.probability}
        every = {"probabilities": dict(self.probabilities)} if self.probabilities else {}
        nearest = {"nearest": [each._asdict() for each in self.nearest]} if self.nearest else {}
        return found | every | nearest


def classify(
    folder: Path,
    support: Path | None,
    texts: Path,
    *,
    text: str = "text",
    label: str = "label",
    support_text: str | None = None,
    pair: str | None = None,
    every: bool = False,
    explain: bool = False,
    backend: Backend = "torch",
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> list[Classified]:
    """Return the label of each text of a file, after adapting to labelled texts where the student knows no classes.

    Args:
        folder: An export of a classification study.
        support: File of `read_labelled`; None where the student knows its classes.
        texts: A table with a column of texts, or one text a line.
        text: The column of texts.
        label: The support's column of labels.
        support_text: The support's column of texts, where it has another name.
        pair: The column of second texts in both files, where the student reads pairs.
        every: Whether to return the probabilities of every label too.
        explain: Whether to return the labelled texts that are nearest to each text too.
        backend: What runs the encoder.
        progress: Called with (texts embedded, texts in all).
        note: Takes remarks on the files.

    Raises:
        InputError: A file cannot be read or a row of it cannot be used, or the folder is no export of a classifier.
    """
    labelled = None if support is None else read_labelled(support, support_text or text, label, note, pair)
    given = [
        _text(place, values, text, pair) for place, values in read_texts(texts, "texts", text, [pair] if pair else [])
    ]
    from distill.inference import StudentClassifier

    student = StudentClassifier.load(folder, backend)
    _check_pairs(folder, pair, pairs=student.manifest.reads_pairs)
    if support is not None and not student.manifest.labels:
        _refuse_one_class(support, set((labelled or {}).values()))
    classifier = student.trained() if labelled is None else student.adapt(list(labelled.items()))
    if (cut := student.count_cut(given)) > 0:
        most = student.manifest.max_tokens
        note(f"{cut:,} of {len(given):,} texts are longer than the {most} tokens that the student reads of a text")
    return labelled_texts(classifier, given, every=every, explain=explain, progress=progress)


def labelled_texts(
    classifier: TextClassifier,
    texts: Sequence[str],
    *,
    every: bool = False,
    explain: bool = False,
    progress: Progress | None = None,
) -> list[Classified]:
    """Return the label of each text.

    Args:
        classifier: What the student adapted to, or was trained on.
        texts: To classify; pairs are joined.
        every: Whether to return the probabilities of every label too.
        explain: Whether to return the labelled texts that are nearest to each text too.
        progress: Called with (texts embedded, texts in all).

    Raises:
        InputError: See `distill.serving.text_classifier.TextClassifier.explain`.
    """
    if explain:
        found, nearest = classifier.explain(texts, progress=progress)
    else:
        found, nearest = classifier.probabilities(texts, progress), [[]] * len(texts)
    best = found.max(1)
    rows = zip(texts, best.indices.tolist(), best.values.tolist(), nearest, strict=True)
    classified = [
        Classified(each.replace(PAIR, "|"), classifier.labels[place], top, nearest=_shown(near))
        for each, place, top, near in rows
    ]
    if not every:
        return classified
    named = (dict(zip(classifier.labels, each, strict=True)) for each in found.tolist())
    return [replace(row, probabilities=each) for row, each in zip(classified, named, strict=True)]


def _shown(nearest: Sequence[Neighbour]) -> list[Neighbour]:
    """Return labelled texts as they are shown: pairs in one line."""
    return [each._replace(text=each.text.replace(PAIR, "|")) for each in nearest]


def _check_pairs(folder: Path, pair: str | None, *, pairs: bool) -> None:
    """Refuse pairs for a student of single texts, and single texts for one of pairs."""
    if pairs and pair is None:
        raise InputError(f"the student in {folder} reads pairs of texts: name the column of the second with --pair")
    if pair is not None and not pairs:
        raise InputError(f"the student in {folder} reads one text, no pairs: leave --pair out")


def _text(place: str, values: Mapping[str, str], text: str, pair: str | None) -> str:
    """Return the text of a row, or both of a pair as one.

    Raises:
        InputError: It has no second one.
    """
    if pair is None:
        return values[text]
    if not values.get(pair, "").strip():
        raise InputError(
            f'{place} has no second text in column "{pair}"; take the row out, or name a column with --pair'
        )
    return join_pair(values[text], values[pair])


def read_labelled(
    path: Path, text: str, label: str, note: Callable[[str], None], pair: str | None = None
) -> dict[str, str]:
    """Read the label of each distinct text from a table; rows without a label are left out, and said.

    Args:
        path: The table.
        text: Its column of texts.
        label: Its column of labels.
        note: Takes remarks on what the table holds.
        pair: Its column of second texts, where texts are pairs.

    Raises:
        InputError: It cannot be read, lacks a column, a text is blank or has two labels, or no row has a label.
    """
    found: dict[str, tuple[str, str]] = {}
    unlabelled = 0
    columns = [(text, "--text or --support-text"), (label, "--label"), *([(pair, "--pair")] if pair else [])]
    for place, values in read_rows(path, "support", columns):
        item, name = normalise_text(values[text]), normalise_text(values[label])
        if not name:
            unlabelled += 1
            continue
        if not item:
            raise InputError(f"{place} has a label, but no text; take the row out, or describe its item")
        item = normalise_text(_text(place, values, text, pair))
        first, at = found.setdefault(item, (name, place))
        if first != name:
            raise InputError(
                f"{place} labels {quoted(item)} {quoted(name)}, {at} labels it {quoted(first)}; give a text one label"
            )
    if unlabelled:
        rows = "1 row has" if unlabelled == 1 else f"{unlabelled:,} rows have"
        note(f"{path.name}: {rows} no label in column {quoted(label)} and are left out")
    labelled = {item: name for item, (name, _) in found.items()}
    _check_classes(path, label, labelled, note)
    return labelled


def _check_classes(path: Path, label: str, labelled: Mapping[str, str], note: Callable[[str], None]) -> None:
    names = list(dict.fromkeys(labelled.values()))
    if not names:
        raise InputError(f"no row of {path} has a label in column {quoted(label)}; label some texts of each class")
    for warning in warn_of_labels(names):
        note(f"{path.name}: {warning}")
    if len(names) >= MANY:
        note(
            f"{path.name}: {len(names):,} classes are more than any student was trained to tell apart; expect many "
            "errors, and consider to classify in two steps, such as departments first"
        )


def _refuse_one_class(path: Path, names: set[str]) -> None:
    """Refuse a support of one class for a student that knows no others."""
    if len(names) == 1:
        raise InputError(
            f"every labelled row of {path} has the label {quoted(names.pop())}; there is nothing to tell apart: label "
            "texts of at least two classes"
        )


def write_csv(classified: Sequence[Classified], path: Path) -> None:
    """Write text, label and probability of each row; then a column for every label whose probabilities are there.

    Raises:
        ArtifactsUnavailable: The file cannot be written, as on a full disk.
    """
    labels = list(classified[0].probabilities)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["text", "label", "probability", *(f"probability of {label}" for label in labels)])
    for row in classified:
        others = [f"{row.probabilities[label]:.6f}" for label in labels]
        writer.writerow([row.text, row.label, f"{row.probability:.6f}", *others])
    with named_failures(path):
        atomic_write(path, out.getvalue().encode(errors="replace"))


def check_out(path: Path) -> None:
    """Check before the work that the output can be written, and that nothing is lost by it.

    Raises:
        InputError: The file exists, or its folder takes no files.
    """
    if path.exists():
        raise InputError(f"{path} exists already; name another file with --out, or remove it")
    check_place(path, "name another file with --out")


def print_table(classified: Sequence[Classified], console: Console) -> None:
    """Print the rows as a table."""
    labels, explained = list(classified[0].probabilities), bool(classified[0].nearest)
    table = Table("text", "label", "probability", *(Column(plain(label)) for label in labels), box=None)
    if explained:
        table.add_column("nearest labelled texts")
    for row in classified:
        others = [f"{row.probabilities[label]:.3f}" for label in labels]
        nearest = [f"{each.text} ({each.label}, {each.similarity:.2f})" for each in row.nearest]
        cells: list[Text | str] = [plain(row.text), plain(row.label), f"{row.probability:.3f}", *others]
        if explained:
            cells.append(plain("; ".join(nearest)))
        table.add_row(*cells)
    console.out.print(table)


def summary(classified: Sequence[Classified]) -> str:
    """Return how many texts have which label, the most frequent first."""
    counts = Counter(row.label for row in classified).most_common()
    shown = ", ".join(f"{label} {count:,}" for label, count in counts[:10])
    more = f" and {len(counts) - 10} more labels" if len(counts) > 10 else ""
    return f"{len(classified):,} texts: {shown}{more}"
