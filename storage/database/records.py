"""Our own tables beside Optuna's: studies, rung results, and finished stages of a job.

They are in the schema that holds Optuna's, the first of the connection's search path. Their names begin with
`scenetune_`, so that none collides with a table of Optuna or of another program.

Optuna copies a trial's attributes when it retries the trial, so results kept there would count twice; here a result
has one row however often its trial is retried.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert

from storage.database.retry import retry_transient
from storage.errors import LockLost

metadata = sa.MetaData()


def _study_key() -> sa.Column[str]:
    return sa.Column("study", sa.Text, sa.ForeignKey("scenetune_study.name", ondelete="CASCADE"), primary_key=True)


def _now(name: str) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())


study_table = sa.Table(
    "scenetune_study",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("files", sa.Text, nullable=False),
    sa.Column("spec", JSONB, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("encoder", sa.Text, nullable=False, server_default=""),
    _now("created_at"),
)
# Numbers the results in the order in which they become visible, for `Records.rung_results_since`.
_arrival = sa.Sequence("scenetune_rung_arrival", metadata=metadata)
rung_table = sa.Table(
    "scenetune_rung_result",
    metadata,
    _study_key(),
    sa.Column("trial", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("rung", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("recall", sa.Double, nullable=False),
    sa.Column("scene_recalls", JSONB, nullable=False),
    sa.Column("cost_seconds", sa.Double, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False, server_default="0"),
    _now("recorded_at"),
    sa.Column("arrival", sa.BigInteger, _arrival, nullable=False, server_default=_arrival.next_value()),
    sa.Index("scenetune_rung_result_by_arrival", "study", "arrival"),
)
stage_table = sa.Table(
    "scenetune_stage",
    metadata,
    _study_key(),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("result", JSONB, nullable=False),
    _now("finished_at"),
)


@dataclass(frozen=True)
class StudyRecord:
    """A study as it was first launched.

    Attributes:
        name: The name of the `optuna.Study`.
        id: Made once, for this study alone: what is deleted and made anew under the same name has another.
        files: Names the folders of its files; the id, and of a restored study another: the two may share a home.
        spec: The whole study file, as JSON.
        fingerprint: Digest of its data, which may not change under one name.
        encoder: Digest of its encoder's weights, which may not either; "" where nobody said.
        created_at: When it was first saved, with its time zone.
    """

    name: str
    id: str
    files: str
    spec: dict[str, Any]
    fingerprint: str
    encoder: str
    created_at: datetime


@dataclass(frozen=True)
class RungResult:
    """The result of one trial at one rung.

    Attributes:
        study: Name of a saved study.
        trial: Optuna's number of the trial; for a retried or continued one, of the first trial of its chain.
        rung: Number of the rung, from 0.
        step: The resource step at which it was measured.
        recall: Macro average over scenes; may be NaN or infinite.
        scene_recalls: Recall by scene. Infinite values come back as NaN, as JSON holds neither.
        cost_seconds: Measured cost up to this rung, in seconds.
        seed: Seed of the trial's training.
    """

    study: str
    trial: int
    rung: int
    step: int
    recall: float
    scene_recalls: dict[str, float]
    cost_seconds: float
    seed: int = 0


class Records:
    """Reads and writes our tables; every method is one transaction, retried after a transient fault of the database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def save_study(self, name: str, spec: Mapping[str, Any], fingerprint: str, encoder: str = "") -> None:
        """Record a study, with a new id; one that is recorded already stays as it is."""
        made = uuid4().hex
        values = {"name": name, "id": made, "files": made, "spec": _json(spec), "fingerprint": fingerprint}
        values["encoder"] = encoder
        self._write(insert(study_table).values(values).on_conflict_do_nothing())

    def update_spec(self, name: str, spec: Mapping[str, Any]) -> None:
        """Replace a study's file, as when its budget grows; its fingerprint stays."""
        self._write(sa.update(study_table).where(study_table.c.name == name).values(spec=_json(spec)))

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold a study's lock: of all processes on this database, only one at a time runs the block.

        The connection holds the lock, so a process that is killed inside releases it.

        Raises:
            LockLost: At the end of the block: the connection broke, so another process may have held the lock too.
        """
        connection = self._locked(name)
        try:
            yield
        except BaseException:
            # The block's own exception is raised, even if the lock was lost as well.
            with suppress(sa.exc.DBAPIError):
                connection.close()
            raise
        try:
            connection.commit()
        except sa.exc.DBAPIError as error:
            raise LockLost(f"the lock {name!r} was lost with its connection: run the command again") from error
        finally:
            connection.close()

    def load_study(self, name: str) -> StudyRecord | None:
        """Return a study; None when there is none of that name."""
        rows = self._read(sa.select(study_table).where(study_table.c.name == name))
        return StudyRecord(**rows[0]) if rows else None

    def study_names(self) -> list[str]:
        """Return the names of all studies, oldest first."""
        columns = (study_table.c.created_at, study_table.c.name)
        return [row["name"] for row in self._read(sa.select(study_table.c.name).order_by(*columns))]

    def study_ids(self) -> dict[str, str]:
        """Return the names of all studies by their ids."""
        return {row["id"]: row["name"] for row in self._read(sa.select(study_table.c.id, study_table.c.name))}

    def delete_study(self, name: str) -> None:
        """Delete a study with its rung results and stages, if there is one; Optuna's study is left alone."""
        self._write(sa.delete(study_table).where(study_table.c.name == name))

    @retry_transient
    def record_rung(self, result: RungResult) -> None:
        """Record a result; it replaces an earlier one of the same trial and rung."""
        values = asdict(result) | {
            "trial": int(result.trial),
            "rung": int(result.rung),
            "step": int(result.step),
            "recall": float(result.recall),
            "scene_recalls": _json(result.scene_recalls),
            "cost_seconds": float(result.cost_seconds),
            "seed": int(result.seed),
        }
        update = {name: value for name, value in values.items() if name not in rung_table.primary_key}
        statement = insert(rung_table).values(values)
        with self._engine.begin() as connection:
            # With the lock, results become visible in the order of their arrival numbers. Without it a number drawn
            # first could be committed last, and a reader that has read the later one would miss it.
            lock(connection, f"rungs of {result.study}")
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=list(rung_table.primary_key),
                    set_=update | {"recorded_at": sa.func.now(), "arrival": _arrival.next_value()},
                )
            )

    def rung_results(self, study: str) -> list[RungResult]:
        """Return a study's results by trial, then rung."""
        query = sa.select(*_RESULT).where(rung_table.c.study == study)
        return [_result(row) for row in self._read(query.order_by(rung_table.c.trial, rung_table.c.rung))]

    def rung_costs(self, study: str) -> list[tuple[int, int, float, float]]:
        """Return trial, rung, recall and cost in seconds of each of a study's results."""
        columns = rung_table.c
        query = sa.select(columns.trial, columns.rung, columns.recall, columns.cost_seconds)
        rows = self._read(query.where(columns.study == study).order_by(columns.trial, columns.rung))
        return [(row["trial"], row["rung"], row["recall"], row["cost_seconds"]) for row in rows]

    def rung_results_since(self, study: str, arrival: int) -> list[tuple[int, RungResult]]:
        """Return the results that arrived after the given arrival, in order, each with its own; 0 gives all of them."""
        columns = rung_table.c
        query = sa.select(*_RESULT, columns.arrival).where(columns.study == study, columns.arrival > arrival)
        rows = self._read(query.order_by(columns.arrival))
        return [(row.pop("arrival"), _result(row)) for row in rows]

    def finish_stage(self, study: str, name: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """Record that a stage of a job is done; return what is stored: the first result ever given."""
        values = {"study": study, "name": name, "result": _json(result)}
        self._write(insert(stage_table).values(values).on_conflict_do_nothing())
        stored = self.stage_result(study, name)
        assert stored is not None
        return stored

    def stage_result(self, study: str, name: str) -> dict[str, Any] | None:
        """Return the result of a finished stage; None when it is not finished."""
        query = sa.select(stage_table.c.result).where(stage_table.c.study == study, stage_table.c.name == name)
        rows = self._read(query)
        return rows[0]["result"] if rows else None

    def stage_results(self, study: str) -> dict[str, dict[str, Any]]:
        """Return the results of a study's finished stages by name, in the order in which they were finished."""
        columns = stage_table.c
        query = sa.select(columns.name, columns.result).where(columns.study == study)
        return {row["name"]: row["result"] for row in self._read(query.order_by(columns.finished_at, columns.name))}

    @retry_transient
    def _locked(self, name: str) -> sa.Connection:
        connection = self._engine.connect()
        try:
            lock(connection, name)
        except BaseException:
            connection.close()
            raise
        return connection

    @retry_transient
    def _write(self, statement: sa.Executable) -> None:
        with self._engine.begin() as connection:
            connection.execute(statement)

    @retry_transient
    def _read(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


_RESULT = [column for column in rung_table.c if column.name not in ("recorded_at", "arrival")]


def _result(row: dict[str, Any]) -> RungResult:
    return RungResult(**row | {"scene_recalls": _floats(row["scene_recalls"])})


def lock(connection: sa.Connection, name: str) -> None:
    """Wait for the lock of that name in the schema of our tables, and hold it until the transaction ends."""
    # PostgreSQL has one set of such locks per database, which may hold the tables of several teams.
    schema = sa.func.hashtext(sa.func.current_schema())
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, schema))))


def _json(value: Any) -> Any:
    """Return a value as JSONB can hold it: numpy scalars become Python's, numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _floats(stored: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else float(value) for name, value in stored.items()}
