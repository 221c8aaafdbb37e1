"""Our own tables: counted once, written once, deleted together."""

import math
import threading
from dataclasses import replace

import numpy as np
import optuna
import pytest
import sqlalchemy as sa

from storage.database.postgres import Database
from storage.database.records import Records, RungResult

RESULT = RungResult("s", 0, 0, 10, 0.5, {"tea": 0.25, "cheese": 0.75}, 1.5)


@pytest.fixture
def records(database: Database) -> Records:
    made = Records(database.engine)
    made.save_study("s", {"search": {"trials": 3}}, "f")
    return made


def test_study_is_kept_as_first_saved(records: Records) -> None:
    """A resumed launch that overwrote the spec would hide that the search space had changed."""
    records.save_study("s", {"search": {"trials": 9}}, "g")
    study = records.load_study("s")
    assert study is not None
    assert (study.name, study.spec, study.fingerprint) == ("s", {"search": {"trials": 3}}, "f")
    assert study.created_at.utcoffset() is not None
    assert records.load_study("other") is None


def test_studies_are_listed_the_oldest_first(records: Records) -> None:
    """`hpo status` without a name shows them in this order."""
    records.save_study("a", {}, "f")
    assert records.study_names() == ["s", "a"]


def test_repeated_rung_counts_once_with_the_last_value(records: Records) -> None:
    """A retried trial counted twice would pull the pruner's quantile towards itself."""
    records.record_rung(replace(RESULT, trial=1))
    records.record_rung(replace(RESULT, rung=1))
    records.record_rung(RESULT)
    again = replace(RESULT, step=20, recall=0.75, scene_recalls={"tea": 1.0}, cost_seconds=2.5)
    records.record_rung(again)
    assert records.rung_results("s") == [again, replace(RESULT, rung=1), replace(RESULT, trial=1)]
    assert records.rung_results("other") == []


def test_a_reader_gets_only_what_arrived_since_and_replaced_results_again(records: Records) -> None:
    """A decision that read the whole study would cost more with every trial."""
    for trial in range(3):
        records.record_rung(replace(RESULT, trial=trial))
    seen = records.rung_results_since("s", 0)
    assert [result.trial for _, result in seen] == [0, 1, 2]
    last = seen[-1][0]
    assert records.rung_results_since("s", last) == []
    records.record_rung(replace(RESULT, trial=0, recall=0.9))
    ((arrival, again),) = records.rung_results_since("s", last)
    assert (again.trial, again.recall) == (0, 0.9)
    assert arrival > last
    assert records.rung_results_since("other", 0) == []


def test_results_become_visible_in_the_order_of_their_arrival(records: Records) -> None:
    """A number drawn first and committed last would be missed by a reader that has read the later one."""
    writer = threading.Thread(target=records.record_rung, args=(RESULT,))
    with records.exclusive("rungs of s"):
        writer.start()
        writer.join(0.5)
        assert writer.is_alive(), "it waits for the lock"
        assert records.rung_results("s") == []
    writer.join()
    assert records.rung_results("s") == [RESULT]


def test_numpy_scalars_are_stored_as_numbers(records: Records) -> None:
    """psycopg2 writes `np.float64(0.5)` into the statement, which PostgreSQL takes for a schema `np`."""
    numpy = RungResult(
        "s", np.int64(0), np.int64(0), np.int32(10), np.float64(0.5),  # type: ignore[arg-type]
        {"tea": np.float32(0.25), "cheese": np.float64(0.75)}, np.float32(1.5),  # type: ignore[dict-item, arg-type]
    )  # fmt: skip
    records.record_rung(numpy)
    assert records.rung_results("s") == [RESULT]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_recalls_are_stored(records: Records, value: float) -> None:
    """A diverged trial must be prunable: losing its row, or the worker, keeps it in the running."""
    records.record_rung(replace(RESULT, recall=value, scene_recalls={"tea": value, "cheese": 0.5}))
    (stored,) = records.rung_results("s")
    assert stored.recall == value or (math.isnan(stored.recall) and math.isnan(value))
    assert math.isnan(stored.scene_recalls["tea"])
    assert stored.scene_recalls["cheese"] == 0.5


def test_result_of_an_unknown_study_is_refused(records: Records) -> None:
    """Rows without a study would never be deleted."""
    with pytest.raises(sa.exc.IntegrityError):
        records.record_rung(replace(RESULT, study="other"))


def test_finished_stage_keeps_its_first_result(records: Records) -> None:
    """Two runs of one job that finish a stage twice must continue from the same result."""
    assert records.stage_result("s", "search") is None
    first = records.finish_stage("s", "search", {"best": (np.int64(3), math.nan), "recall": np.float64(0.5)})
    assert first == {"best": [3, None], "recall": 0.5}
    assert records.finish_stage("s", "search", {"best": [4]}) == first
    assert records.stage_result("s", "search") == first
    assert records.stage_result("s", "distil") is None


def test_deleting_a_study_deletes_what_belongs_to_it_alone(records: Records, database: Database) -> None:
    """Rung results that stayed would prune the trials of the next study of that name."""
    optuna.create_study(storage=database.storage, study_name="s")
    records.save_study("t", {}, "f")
    for study in ("s", "t"):
        records.record_rung(replace(RESULT, study=study))
        records.finish_stage(study, "search", {})
    records.delete_study("s")
    records.delete_study("never there")
    assert records.study_names() == ["t"]
    assert (records.rung_results("s"), records.stage_result("s", "search")) == ([], None)
    assert (len(records.rung_results("t")), records.stage_result("t", "search")) == (1, {})
    assert optuna.get_all_study_names(database.storage) == ["s"]
