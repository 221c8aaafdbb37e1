"""Optuna's storage on PostgreSQL, every call of which waits for a database that is away for a while."""

from collections.abc import Sequence

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from storage.patience import patiently, retrying

# What bears being repeated as it stands; the last ones are called by the cache that Optuna puts around a storage.
_REPEATED = (
    "create_new_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "create_new_trial",
    "set_trial_param",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_param",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    "get_trial",
    "get_all_trials",
    "get_best_trial",
    "record_heartbeat",
    "_create_new_trial",
    "_set_trial_param",
    "_get_trials",
    "_get_best_trial_id",
    "_get_stale_trial_ids",
)


class PatientStorage(RDBStorage):
    """Repeats what a passing fault of the database has interrupted; built like `RDBStorage`.

    A call may have succeeded although its connection broke before the answer came. Such a call is repeated without
    harm, with two exceptions. A trial that was begun unheard stays `RUNNING`, and is taken up again as one that runs
    without any worker's lease; one that was queued unheard is queued twice. A study that was made unheard raises
    `DuplicatedStudyError`, which `optuna.create_study(load_if_exists=True)` takes for what it is.
    """

    @patiently
    def delete_study(self, study_id: int) -> None:
        """Delete a study; one that an unheard attempt has deleted is gone, as was wanted."""
        try:
            super().delete_study(study_id)
        except KeyError:
            if not retrying():
                raise

    @patiently
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


for _name in _REPEATED:
    setattr(PatientStorage, _name, patiently(getattr(RDBStorage, _name)))
