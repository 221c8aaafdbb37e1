"""Optuna's storage on PostgreSQL; every call is retried while the database is away (`storage.database.retry`)."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import and_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from storage.database.retry import retry_transient, retrying
from storage.database.trial_reader import ReadingStorage
from storage.errors import StudyGone

# Methods that are safe to retry as they are; Optuna's cache around the storage calls the last ones.
_RETRIED_AS_THEY_ARE = (
    "create_new_study",
    "set_study_user_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "create_new_trial",
    "set_trial_param",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_param",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    "get_trial",
    "get_all_trials",
    "get_best_trial",
    "record_heartbeat",
    "_create_new_trial",
    "_get_best_trial_id",
    "_get_stale_trial_ids",
)

_Write = Callable[[Session], None]
# Writes of this thread that `RetryingStorage.one_transaction` has yet to store.
_pending: ContextVar[list[_Write] | None] = ContextVar("pending", default=None)


class RetryingStorage(ReadingStorage):
    """Retries calls that a transient fault of the database interrupted; constructed like `RDBStorage`.

    A call may be retried after an unacknowledged commit. That does no harm, with two exceptions: a trial that was
    created stays `RUNNING` without a lease, and is requeued as a stale trial; one that was enqueued is enqueued twice.
    A study that was created raises `DuplicatedStudyError`, which `optuna.create_study(load_if_exists=True)` handles.
    """

    @retry_transient
    def create_marked_study(
        self, name: str, directions: Sequence[StudyDirection], attributes: Mapping[str, Any]
    ) -> None:
        """Create a study together with system attributes: nobody sees it without them.

        Raises:
            DuplicatedStudyError: There is one of that name, which may be this one after an unacknowledged commit.
        """
        study = models.StudyModel(
            study_name=name,
            directions=[
                models.StudyDirectionModel(objective=number, direction=direction)
                for number, direction in enumerate(directions)
            ],
            system_attributes=[
                models.StudySystemAttributeModel(key=key, value_json=json.dumps(value))
                for key, value in attributes.items()
            ],
        )
        try:
            with _create_scoped_session(self.scoped_session) as session:
                session.add(study)
        except IntegrityError as error:
            raise DuplicatedStudyError(name) from error

    @retry_transient
    def find_study(self, name: str, key: str) -> tuple[int, Any] | None:
        """Return a study's number and one of its system attributes, without reading the others, which may be large.

        Args:
            name: Name of the study.
            key: Of the attribute; its value is None where the study has none.

        Returns:
            None without a study of that name.
        """
        study, attribute = models.StudyModel, models.StudySystemAttributeModel
        with _create_scoped_session(self.scoped_session) as session:
            query = session.query(study.study_id, attribute.value_json)
            query = query.outerjoin(attribute, and_(attribute.study_id == study.study_id, attribute.key == key))
            row = query.filter(study.study_name == name).one_or_none()
        return None if row is None else (row[0], None if row[1] is None else json.loads(row[1]))

    @retry_transient
    def studies_with(self, key: str) -> dict[str, Any]:
        """Return a system attribute of each study that has it, by the study's name."""
        study, attribute = models.StudyModel, models.StudySystemAttributeModel
        with _create_scoped_session(self.scoped_session) as session:
            query = session.query(study.study_name, attribute.value_json)
            query = query.join(attribute, attribute.study_id == study.study_id).filter(attribute.key == key)
            return {name: json.loads(value) for name, value in query}

    @retry_transient
    def _get_trials(self, study_id: int, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        try:
            return super()._get_trials(study_id, *args, **kwargs)
        except KeyError as error:
            raise StudyGone(
                "the study's trials were deleted from the database while this program used them; hpo status says what "
                "is left"
            ) from error

    @contextmanager
    def one_transaction(self) -> Iterator[None]:
        """Store the block's writes at its end, in one transaction instead of one for each.

        This holds for parameters, intermediate values and attributes of running trials, and for system attributes of
        a study; they cannot be read before. After an exception the writes before it are stored; after an interrupt
        none are.
        """
        writes: list[_Write] = []
        token, interrupted = _pending.set(writes), True
        try:
            yield
            interrupted = False
        except Exception:
            interrupted = False
            raise
        finally:
            _pending.reset(token)
            if writes and not interrupted:
                self._store(writes)

    @retry_transient
    def _store(self, writes: Sequence[_Write]) -> None:
        # After an unacknowledged commit the rows exist already.
        with _create_scoped_session(self.scoped_session, ignore_integrity_error=retrying()) as session:
            for write in writes:
                write(session)

    def _write(self, write: _Write) -> None:
        if (writes := _pending.get()) is None:
            self._store([write])
        else:
            writes.append(write)

    @retry_transient
    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        values = (trial_id, param_name, param_value_internal, distribution, previous_distribution)
        self._write(lambda session: self._set_trial_param_without_commit(session, *values))

    @retry_transient
    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Set an intermediate value of a trial."""
        values = (trial_id, step, intermediate_value)
        self._write(lambda session: self._set_trial_intermediate_value_without_commit(session, *values))

    @retry_transient
    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of a trial."""
        values = (models.TrialUserAttributeModel, trial_id, key, value)
        self._write(lambda session: self._set_trial_attr_without_commit(session, *values))

    @retry_transient
    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set a system attribute of a trial."""
        values = (models.TrialSystemAttributeModel, trial_id, key, value)
        self._write(lambda session: self._set_trial_attr_without_commit(session, *values))

    @retry_transient
    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set a system attribute of a study."""
        self._write(lambda session: _set_study_system_attr(session, study_id, key, value))

    @retry_transient
    def delete_study(self, study_id: int) -> None:
        """Delete a study; a retry after an unacknowledged commit finds it deleted and succeeds."""
        try:
            super().delete_study(study_id)
        except KeyError:
            if not retrying():
                raise

    @retry_transient
    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set a trial's state and values; a retry after an unacknowledged commit of the same succeeds."""
        try:
            return super().set_trial_state_values(trial_id, state, values)
        except UpdateFinishedTrialError:
            if not retrying():
                raise
            stored = self.get_trial(trial_id)
            if stored.state != state or (values is not None and stored.values != list(values)):
                raise
            return True


def _set_study_system_attr(session: Session, study_id: int, key: str, value: Any) -> None:
    study = models.StudyModel.find_or_raise_by_id(study_id, session)
    stored = models.StudySystemAttributeModel.find_by_study_and_key(study, key, session)
    if stored is None:
        session.add(models.StudySystemAttributeModel(study_id=study_id, key=key, value_json=json.dumps(value)))
    else:
        stored.value_json = json.dumps(value)


for _name in _RETRIED_AS_THEY_ARE:
    setattr(RetryingStorage, _name, retry_transient(getattr(RDBStorage, _name)))
