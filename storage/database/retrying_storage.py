"""Optuna's storage on PostgreSQL, every call of which waits for a database that is away for a while."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import TrialState

from storage.database.retry import retry_transient, retrying

# What bears being repeated as it stands; the last ones are called by the cache that Optuna puts around a storage.
_REPEATED = (
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
    "_get_trials",
    "_get_best_trial_id",
    "_get_stale_trial_ids",
)

# What `RetryingStorage.one_transaction` holds back in this thread.
_Write = Callable[[Any], None]
_held: ContextVar[list[_Write] | None] = ContextVar("held", default=None)


class RetryingStorage(RDBStorage):
    """Repeats what a passing fault of the database has interrupted; built like `RDBStorage`.

    A call may have succeeded although its connection broke before the answer came. Such a call is repeated without
    harm, with two exceptions. A trial that was begun unheard stays `RUNNING`, and is taken up again as one that runs
    without any worker's lease; one that was queued unheard is queued twice. A study that was made unheard raises
    `DuplicatedStudyError`, which `optuna.create_study(load_if_exists=True)` takes for what it is.
    """

    @contextmanager
    def one_transaction(self) -> Iterator[None]:
        """Store what the block sets of running trials at its end, in one transaction instead of one for each.

        It holds for parameters, intermediate values and attributes, which nobody reads before, and for a study's system
        attributes. An exception is stored with what came before it; an interrupt leaves all of it to be done
        again.
        """
        writes: list[_Write] = []
        token, interrupted = _held.set(writes), True
        try:
            yield
            interrupted = False
        except Exception:
            interrupted = False
            raise
        finally:
            _held.reset(token)
            if writes and not interrupted:
                self._store(writes)

    @retry_transient
    def _store(self, writes: Sequence[_Write]) -> None:
        # Stored already where an unheard attempt has succeeded.
        with _create_scoped_session(self.scoped_session, ignore_integrity_error=retrying()) as session:
            for write in writes:
                write(session)

    def _write(self, write: _Write) -> None:
        if (writes := _held.get()) is None:
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
        """Set what a trial has reported."""
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
        """Delete a study; one that an unheard attempt has deleted is gone, as was wanted."""
        try:
            super().delete_study(study_id)
        except KeyError:
            if not retrying():
                raise

    @retry_transient
    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set a trial's state and values; where an unheard attempt has finished the trial so, that is success."""
        try:
            return super().set_trial_state_values(trial_id, state, values)
        except UpdateFinishedTrialError:
            if not retrying():
                raise
            stored = self.get_trial(trial_id)
            if stored.state != state or (values is not None and stored.values != list(values)):
                raise
            return True


def _set_study_system_attr(session: Any, study_id: int, key: str, value: Any) -> None:
    study = models.StudyModel.find_or_raise_by_id(study_id, session)
    stored = models.StudySystemAttributeModel.find_by_study_and_key(study, key, session)
    if stored is None:
        session.add(models.StudySystemAttributeModel(study_id=study_id, key=key, value_json=json.dumps(value)))
    else:
        stored.value_json = json.dumps(value)


for _name in _REPEATED:
    setattr(RetryingStorage, _name, retry_transient(getattr(RDBStorage, _name)))
