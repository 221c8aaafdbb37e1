"""What a study owns, and how it is told from what others made under the same name (docs/architecture.md, Ownership).

A study gets an id at its first launch, which its record holds. Its two Optuna studies carry the id from the transaction
that creates them. The folders of its files are named after a number that no restored copy shares. Whatever carries
neither is not the study's.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from storage import home
from storage.database.postgres import Database
from storage.database.records import Records, StudyRecord
from storage.errors import ArtifactsUnavailable, InputError
from storage.files import store

# The system attribute of an Optuna study that holds the id of the study which owns it.
MARK = "scenetune:study"


class TrialsMissing(InputError):
    """A study's trials are gone from Optuna's tables, or somebody else's are in their place."""


class _Found(NamedTuple):
    """An Optuna study: its number, and the id that it carries; None where it carries none."""

    number: int
    mark: str | None


@dataclass(frozen=True)
class OwnedStudy:
    """An Optuna study that a registered study owns, with the folder of its files.

    Attributes:
        database: Where it lives.
        name: Optuna's name of it.
        study: Name of the registered study; the same of its search.
        id: Of the registered study.
        files: Names its folder (`StudyRecord.files`).
    """

    database: Database = field(repr=False)
    name: str
    study: str
    id: str
    files: str

    @property
    def key(self) -> str:
        """Return the name of its folder: no study of another database, or of another time, has the same."""
        return f"{self.name}-{self.files[:8]}"

    @property
    def folder(self) -> Path:
        """Return the folder of its files; it is not created."""
        return home.study_folder(self.key)

    def trial_folder(self, number: int) -> Path:
        """Return the folder of one trial's checkpoints; it is not created."""
        return home.trial_folder(self.key, number)

    def exists(self) -> bool:
        """Tell whether Optuna has it; an Optuna study of the same name that others made does not count."""
        found = _find(self.database, self.name)
        return found is not None and found.mark == self.id

    def open(
        self,
        storage: BaseStorage | None = None,
        sampler: optuna.samplers.BaseSampler | None = None,
        pruner: optuna.pruners.BasePruner | None = None,
    ) -> optuna.Study:
        """Return the Optuna study.

        Args:
            storage: One that has read its trials before; by default the database's own.
            sampler: For `ask`.
            pruner: For `should_prune`.

        Raises:
            TrialsMissing: It is gone, or somebody else's has its name.
        """
        if not self.exists():
            raise TrialsMissing(self._missing())
        storage = storage or self.database.storage
        return optuna.load_study(storage=storage, study_name=self.name, sampler=sampler, pruner=pruner)

    def create(self, directions: Sequence[StudyDirection]) -> None:
        """Create the Optuna study unless it exists; only while holding its lock.

        Files that trials before it left behind are removed first: they would be taken for those of the new ones.

        Raises:
            InputError: Somebody else's has its name.
        """
        check_free(self.database, self.name, self.id)
        if self.exists():
            return
        self.remove_files()
        with suppress(DuplicatedStudyError):  # ours, created in an attempt before; or somebody's, refused when opened
            self.database.storage.create_marked_study(self.name, directions, {MARK: self.id})

    def delete(self) -> None:
        """Delete its files and the Optuna study; one of the same name that others made stays.

        Raises:
            InputError: The files cannot be removed; the Optuna study is still there.
        """
        self.remove_files()
        if self.exists():
            with suppress(KeyError):
                optuna.delete_study(study_name=self.name, storage=self.database.storage)

    def remove_files(self) -> None:
        """Remove its files, here and in the shared store.

        Raises:
            InputError: They cannot be removed here.
            ArtifactsUnavailable: The store does not answer.
        """
        try:
            shutil.rmtree(self.folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise InputError(
                f"cannot remove {error.filename or self.folder} ({error.strerror}): permit it, then repeat the command"
            ) from error
        store.remove(self.folder)

    def _missing(self) -> str:
        what = "trials" if self.name == self.study else "students"
        found = _find(self.database, self.name)
        if found is None:
            why = f"the database has no Optuna study {self.name!r}, deleted by optuna or another dashboard"
        else:
            why = f"the Optuna study {self.name!r} is another one, {_described(self.database, found)}"
        return (
            f"the {what} of study {self.study!r} are gone: {why}. If it was renamed, rename it back; hpo db restore "
            f"reads a backup into another database; hpo delete {self.study} removes what is left of the study"
        )


def search_of(record: StudyRecord, database: Database) -> OwnedStudy:
    """Return the search of a registered study."""
    return OwnedStudy(database, record.name, record.name, record.id, record.files)


def distillation_of(record: StudyRecord, database: Database) -> OwnedStudy:
    """Return the distillation of a registered study, which may not have begun."""
    return OwnedStudy(database, distillation_name(record.name), record.name, record.id, record.files)


def owned_search(database: Database, name: str) -> OwnedStudy:
    """Return the search of the study of that name.

    Raises:
        InputError: There is no such study.
    """
    return search_of(load_record(database, name), database)


def owned_distillation(database: Database, name: str) -> OwnedStudy:
    """Return the distillation of the study of that name, which may not have begun.

    Raises:
        InputError: There is no such study.
    """
    return distillation_of(load_record(database, name), database)


def owned_by_optuna_name(database: Database, name: str) -> OwnedStudy | None:
    """Return the search or distillation of that name; None where no registered study owns one."""
    records = Records(database.engine)
    if (record := records.load_study(name)) is not None:
        return search_of(record, database)
    study = name.removesuffix(home.DISTILLATION)
    record = records.load_study(study) if study != name else None
    return None if record is None else distillation_of(record, database)


def distillation_name(name: str) -> str:
    """Return the name of the Optuna study that distils a search's winners."""
    return f"{name}{home.DISTILLATION}"


def load_record(database: Database, name: str) -> StudyRecord:
    """Return the record of a registered study.

    Raises:
        InputError: There is no such study; the message shows the nearest names.
    """
    records = Records(database.engine)
    if (stored := records.load_study(name)) is not None:
        return stored
    if (found := _find(database, name)) is not None:
        raise InputError(
            f"there is no study {name!r} that hpo launched; an Optuna study has that name, "
            f"{_described(database, found)}: hpo leaves it alone, and launches a study under another name"
        )
    names = records.study_names()
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names) or 'none yet'}"
    raise InputError(f"there is no study {name!r}; {hint}; hpo launch STUDY.toml starts one")


def copy_files(database: Database, earlier: Mapping[str, str]) -> list[tuple[Path, Path]]:
    """Copy the checkpoints of restored studies from the folders of those that the backup was taken of.

    Args:
        database: The restored one.
        earlier: Of `storage.database.backup.restore`.

    Returns:
        Folders that are not here, or could not be copied, each with the folder that it should be copied to.
    """
    left = []
    for name, files in earlier.items():
        record = load_record(database, name)
        for owned in (search_of(record, database), distillation_of(record, database)):
            source = replace(owned, files=files)
            # A trial that began after the backup is another one here.
            trials = len(owned.open().get_trials(deepcopy=False)) if owned.exists() else 0
            try:
                copied = [store.copy(source.trial_folder(n), owned.trial_folder(n)) for n in range(trials)]
            except (OSError, ArtifactsUnavailable):
                copied = [False]
            if copied and not any(copied):
                left.append((source.folder, owned.folder))
    return left


def check_free(database: Database, name: str, study_id: str | None) -> None:
    """Refuse to use an Optuna study that a study did not make.

    Args:
        database: Where both live.
        name: Of the Optuna study.
        study_id: Id of the study; None of one that is not registered yet.

    Raises:
        InputError: There is one of that name without the study's id.
    """
    found = _find(database, name)
    if found is None or (study_id is not None and found.mark == study_id):
        return
    trials, owner = database.storage.get_n_trials(found.number), _owner(database, found)
    remove = (
        ""
        if owner
        else (f"; or remove that one, if nobody needs it, with optuna delete-study --study-name {name} --storage URL")
    )
    raise InputError(
        f"the database has an Optuna study {name!r} with {trials} trials already, {_described(database, found)}: it "
        f"stays as it is. Give your study another name{remove}"
    )


def orphans(database: Database) -> list[str]:
    """Return names of Optuna studies that scenetune made, and whose records are gone."""
    known, marks = Records(database.engine).study_ids(), database.storage.studies_with(MARK)
    return sorted(name for name, mark in marks.items() if mark not in known)


def _find(database: Database, name: str) -> _Found | None:
    found = database.storage.find_study(name, MARK)
    return None if found is None else _Found(*found)


def _owner(database: Database, found: _Found) -> str | None:
    """Return the registered study that an Optuna study belongs to."""
    return None if found.mark is None else Records(database.engine).study_ids().get(found.mark)


def _described(database: Database, found: _Found) -> str:
    """Return whose an Optuna study is, as the end of a sentence."""
    if found.mark is None:
        return "which scenetune did not make"
    owner = _owner(database, found)
    if owner is None:
        return "which scenetune made, but whose records are gone or in another database"
    return f"which belongs to study {owner!r}"
