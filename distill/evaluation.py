"""What a finished study found, as it is stored, exported and reported: its teachers, its students, their figures.

See `studies.evaluation.figures` for the figures of any system, and for how the models are written and read.
"""

from __future__ import annotations

from typing import Literal

from studies.evaluation.figures import ByShots, Figure, Figures, Settings, SystemsEvaluation
from studies.evaluation.intervals import Interval


class TransferGroup(Figures):
    """Scenes that are alike in one respect: recall by shots of some systems, and what adapting gains.

    Attributes:
        grouping: In what respect the scenes are alike.
        group: The range of it.
        scenes: Number of scenes.
        systems: Recall by shots, by system.
        gains: Of each system that adapts, its recall less that of direct transfer, paired by scene.
    """

    grouping: str
    group: str
    scenes: int
    systems: dict[str, ByShots]
    gains: dict[str, ByShots]


class RetentionIntervals(Figures):
    """The 95 % intervals of a retention, over scenes; None where the retention is."""

    recall: Interval | None
    lift: Interval | None


class Retention(Figures):
    """What the student keeps of its best teacher. A ratio to what is not surely above zero would be any number.

    Attributes:
        baseline: The best baseline that reads no text, from which the lift is counted.
        teacher_lift: Recall of the teacher less that of the baseline, paired by scene.
        recall: The student's recall over the teacher's; None where the interval of the teacher's includes zero.
        lift: The student's lift over the teacher's; None where the interval of the teacher's is not above zero.
        intervals: Of both ratios.
    """

    baseline: str
    teacher_lift: Interval
    recall: Figure
    lift: Figure
    intervals: RetentionIntervals


class TeacherReference(Figures):
    """A teacher: the number of its trial, its recall over all validation draws, and its hyperparameters."""

    trial: int
    validation_recall: float
    params: Settings


class EncoderFigures(Figures):
    """Parameters and bytes of encoder and head, and texts encoded per second."""

    parameters: int
    bytes: int
    items_per_second: Figure


class InferenceFigures(Figures):
    """What inference costs, measured side by side."""

    teacher: EncoderFigures
    student: EncoderFigures


class Finalist(Figures):
    """A trial that was re-evaluated; recalls are macro-averages over the validation scenes.

    Attributes:
        trial: Its number.
        searched: Recall that the search saw.
        redrawn: Recall on the other draws.
        recall: Recall over all draws, the search's own included: winners are chosen by it.
    """

    trial: int
    searched: float
    redrawn: float
    recall: float


class Finalists(Figures):
    """All finalists, the best first.

    Attributes:
        draws: Other draws of the scenes' openings and query users.
        ranked: By recall over all draws.
        optimism: How much of the lead of the search's best trial over the reference is gone on the other draws:
            the part of its recall that came from choosing by it.
    """

    draws: int
    ranked: tuple[Finalist, ...]
    optimism: float


class Compared(Figures):
    """An earlier trial that the search's best one is compared with.

    Attributes:
        trial: Its number.
        system: Its name among the systems.
        gain: Recall of the best trial less its own, paired by scene; None where it is the best trial itself.
    """

    trial: int
    system: str
    gain: Interval | None


class SearchGain(Figures):
    """By how much the search's best trial is above where the search started, on the test scenes.

    Attributes:
        default: The default configuration, the middle of the search space; None where it did not finish.
        unfinished: Why it did not; "" where it did.
        first: The best of the first trials on validation; None where none of them finished, or where there were no
            more.
        first_trials: How many trials count as the first.
    """

    default: Compared | None
    unfinished: str
    first: Compared | None
    first_trials: int


class StudentProgress(Figures):
    """How far a student's training has come.

    Attributes:
        texts: Texts that it could read.
        texts_read: Texts that its steps on texts read, repeats counted.
        measure: What it is judged by: "lift" over the best baseline that reads no text, or "recall" where the interval
            of the best teacher's lift is not above zero.
        kept: How much of the best teacher's it keeps, on the same validation episodes.
        first_step: The first rung; of a longer training the last one of the shorter.
        gained: Recall since that rung, paired by scene.
        undertrained: Whether it keeps too little of the teacher, and more steps would probably help.
    """

    texts: int
    texts_read: int
    measure: Literal["lift", "recall"]
    kept: Interval
    first_step: int
    gained: Interval
    undertrained: bool

    @property
    def may_gain(self) -> bool:
        """Whether it is surely below the teacher, and has risen or not read all texts."""
        return self.kept.high < 1 and (self.gained.low > 0 or self.texts_read < self.texts)


class StudentRow(Figures):
    """One trial of a distillation.

    Attributes:
        trial: Its number.
        state: Optuna's, in lower case.
        recall: On validation scenes, at the last rung that it reached; None before the first.
        latency: Time of its encoder over the teacher's; None unless it finished, as for the next.
        size: Parameters of its encoder over the teacher's.
        params: Its hyperparameters.
        reason: The pruner's.
        training: How far its training has come; None unless it finished beside a teacher with a recall.
        extends: The trial whose student it is, trained for more steps on texts; None for a student of its own.
        embed_steps: These steps.
        front: Whether no other student is at least as good in recall, latency and size and better in one.
        taken: Whether it is the one that is exported.
    """

    trial: int
    state: str
    recall: Figure
    latency: Figure
    size: Figure
    params: Settings
    reason: str | None
    training: StudentProgress | None = None
    extends: int | None = None
    embed_steps: int | None = None
    front: bool
    taken: bool


class StudyEvaluation(SystemsEvaluation):
    """The evaluation of a study on its test scenes.

    Attributes:
        best_teacher: The name of the best teacher among the systems.
        student_trial: The trial of the student.
        transfer: Direct transfer against adapting, in groups of scenes.
        retention: What the student keeps of the best teacher.
        teachers: The winners, best first.
        students: Every trial of the distillation.
        finalists: The trials that the winners were chosen from.
        search_gain: What searching was worth.
        inference: What the best teacher and the student cost.
        unlike: What of the teachers' encoder the students started without, in words.
    """

    best_teacher: str
    student_trial: int
    transfer: tuple[TransferGroup, ...]
    retention: Retention
    teachers: tuple[TeacherReference, ...]
    students: tuple[StudentRow, ...]
    finalists: Finalists
    search_gain: SearchGain
    inference: InferenceFigures
    unlike: str = ""


class ExportEvaluation(Figures):
    """The recall of an exported student on its study's test scenes, as measured now and as its manifest has it."""

    study: str
    task: str
    kind: str = ""
    format: str
    metric: str
    shots: int
    scenes: int
    recall: Interval
    recorded: Interval
