"""Reads a study's trials from Optuna's tables as `RDBStorage` does, without an object of SQLAlchemy for each row.

A study of 5,000 trials has 50,000 rows of parameters, attributes and values: making their objects takes most of the
time in which a command or a worker first reads it.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import (
    StudyModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

# By the id of its trial, a dictionary of what a table holds.
_Found = defaultdict[int, dict[Any, Any]]
_distribution: Callable[[str], BaseDistribution] = functools.lru_cache(maxsize=1024)(json_to_distribution)


class ReadingStorage(RDBStorage):
    """Optuna's storage, which reads trials faster; constructed like it."""

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        wanted = None if states is None else [state for state in TrialState if state in states]
        included = [number for number in included_trial_ids if number <= trial_id_greater_than]
        with _create_scoped_session(self.scoped_session) as session:
            StudyModel.find_or_raise_by_id(study_id, session)  # KeyError: there is none
            return _read_trials(session, _chosen(study_id, wanted, included, trial_id_greater_than))


def _chosen(
    study_id: int, states: Iterable[TrialState] | None, included: Collection[int], above: int
) -> list[ColumnElement[bool]]:
    """Return the conditions on the trials to read.

    Args:
        study_id: Their study.
        states: Only trials in these; in any if None.
        included: Ids of trials to read.
        above: Trials with larger ids are read too; all are where it is negative.
    """
    chosen: list[ColumnElement[bool]] = [TrialModel.study_id == study_id]
    if states is not None:
        chosen.append(TrialModel.state.in_(list(states)))
    if above >= 0:
        chosen.append(or_(TrialModel.trial_id.in_(sorted(included)), TrialModel.trial_id > above))
    return chosen


def _read_trials(session: Session, chosen: list[ColumnElement[bool]]) -> list[FrozenTrial]:
    """Return the trials that fulfil all conditions, in the order of their ids."""
    times: Any = (TrialModel._datetime_start_utc, TrialModel._datetime_complete_utc)
    query = select(TrialModel.trial_id, TrialModel.number, TrialModel.state, *times).where(*chosen)
    trials = session.execute(query.order_by(TrialModel.trial_id)).all()

    def rows(model: Any, order: Any, *wanted: Any) -> Iterator[Any]:
        """Yield the ids of trials, each with columns of one of their rows."""
        query = select(model.trial_id, *wanted).join(TrialModel, TrialModel.trial_id == model.trial_id)
        yield from session.execute(query.where(*chosen).order_by(order))

    params, distributions = _parameters(rows)
    values, steps = _values(rows)
    user, system = (
        _attributes(rows, model, key)
        for model, key in (
            (TrialUserAttributeModel, TrialUserAttributeModel.trial_user_attribute_id),
            (TrialSystemAttributeModel, TrialSystemAttributeModel.trial_system_attribute_id),
        )
    )
    return [
        FrozenTrial(
            number=number,
            state=state,
            value=None,
            values=list(values[trial].values()) if trial in values else None,
            datetime_start=_local(started),
            datetime_complete=_local(ended),
            params=params[trial],
            distributions=distributions[trial],
            user_attrs=user[trial],
            system_attrs=system[trial],
            intermediate_values=steps[trial],
            trial_id=trial,
        )
        for trial, number, state, started, ended in trials
    ]


def _local(utc: datetime | None) -> datetime | None:
    """Return a time as Optuna gives it: local, without a zone."""
    return None if utc is None else utc.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def _parameters(rows: Callable[..., Iterator[Any]]) -> tuple[_Found, _Found]:
    """Return parameters and their distributions."""
    params, distributions = _Found(dict), _Found(dict)
    table = TrialParamModel
    for trial, name, value, text in rows(
        table, table.param_id, table.param_name, table.param_value, table.distribution_json
    ):
        distributions[trial][name] = distribution = _distribution(text)
        params[trial][name] = distribution.to_external_repr(value)
    return params, distributions


def _values(rows: Callable[..., Iterator[Any]]) -> tuple[_Found, _Found]:
    """Return values by objective, and intermediate values by step."""
    values, steps = _Found(dict), _Found(dict)
    table = TrialValueModel
    for trial, objective, value, kind in rows(table, table.objective, table.objective, table.value, table.value_type):
        values[trial][objective] = table.stored_repr_to_value(value, kind)
    of = TrialIntermediateValueModel
    for trial, step, value, kind in rows(
        of, of.trial_intermediate_value_id, of.step, of.intermediate_value, of.intermediate_value_type
    ):
        steps[trial][step] = of.stored_repr_to_intermediate_value(value, kind)
    return values, steps


def _attributes(rows: Callable[..., Iterator[Any]], table: Any, order: Any) -> _Found:
    found = _Found(dict)
    for trial, key, text in rows(table, order, table.key, table.value_json):
        found[trial][key] = json.loads(text)
    return found
