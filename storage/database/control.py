"""Stop requests, the deadline and the required version for a study's workers, which read them while they work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from storage.database.records import metadata
from storage.database.retry import retry_transient

# "rung": running trials pause at their next rung; "now": they are interrupted and resume from their last rung.
Stop = Literal["rung", "now"]

control_table = sa.Table(
    "scenetune_control",
    metadata,
    sa.Column("study", sa.Text, sa.ForeignKey("scenetune_study.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("stop", sa.Text),
    sa.Column("deadline", sa.DateTime(timezone=True)),
    sa.Column("version", sa.Text, nullable=False),
)
_columns = control_table.c


@dataclass(frozen=True)
class ControlState:
    """What holds for a study's workers at this moment.

    Attributes:
        stop: Set by `hpo stop` until the study is launched again.
        overdue: Whether the launch's deadline has passed, by the server's clock.
        version: Of the program that launched the study.
        seconds_left: Until the launch's deadline, by the server's clock; None without a deadline.
    """

    stop: Stop | None = None
    overdue: bool = False
    version: str | None = None
    seconds_left: float | None = None


class Control:
    """Stop requests and deadline of one registered study.

    Args:
        engine: The database.
        study: Its name.
    """

    def __init__(self, engine: sa.Engine, study: str) -> None:
        self._engine, self._study = engine, study

    @retry_transient
    def start(self, version: str, seconds: float | None) -> None:
        """Withdraw any stop request; set the deadline so many seconds from now, or none."""
        deadline = None if seconds is None else sa.func.now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        values = {"stop": None, "deadline": deadline, "version": version}
        statement = insert(control_table).values(study=self._study, **values)
        with self._engine.begin() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=[_columns.study], set_=values))

    @retry_transient
    def stop(self, how: Stop) -> None:
        """Request that the workers stop."""
        with self._engine.begin() as connection:
            connection.execute(sa.update(control_table).where(_columns.study == self._study).values(stop=how))

    @retry_transient
    def state(self) -> ControlState:
        """Return what holds now; the defaults for a study that was never started."""
        overdue = sa.func.coalesce(_columns.deadline < sa.func.now(), sa.false())
        left = sa.func.extract("epoch", _columns.deadline - sa.func.now()).cast(sa.Double)
        query = sa.select(_columns.stop, overdue, _columns.version, left).where(_columns.study == self._study)
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return ControlState() if row is None else ControlState(*row)
