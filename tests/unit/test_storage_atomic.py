"""Files and folders appear whole or not at all."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from storage.errors import ArtifactsUnavailable, InputError
from storage.files.atomic import atomic_files, atomic_folder, atomic_write, sha256
from storage.files.outputs import check_place

ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_folder_appears_only_when_complete(tmp_path: Path) -> None:
    """A server that watches for an export would load half of it."""
    target = tmp_path / "deep" / "export"
    with atomic_folder(target) as draft:
        (draft / "sub").mkdir()
        (draft / "sub" / "a").write_text("1")
        assert not target.exists()
    assert contents(target) == {"sub/a": "1"}
    assert [path.name for path in target.parent.iterdir()] == ["export"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("replace", [False, True])
def test_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException], replace: bool) -> None:
    """Ctrl-C while writing must neither lose the old checkpoint nor litter the folder."""
    target = tmp_path / "export"
    if replace:
        target.mkdir()
        (target / "a").write_text("old")
    before = contents(tmp_path)
    with pytest.raises(error), atomic_folder(target, replace=replace) as draft:  # noqa: PT012
        (draft / "a").write_text("new")
        raise error
    assert contents(tmp_path) == before


def test_existing_folder_is_refused_or_replaced_whole(tmp_path: Path) -> None:
    """Files of an older export left among the new ones would be loaded with them."""
    target = tmp_path / "export"
    with atomic_folder(target) as draft:
        (draft / "old").write_text("old")
    with pytest.raises(InputError, match="exists already"), atomic_folder(target):
        pass
    with atomic_folder(target, replace=True) as draft:
        (draft / "new").write_text("new")
    assert contents(tmp_path) == {"export/new": "new"}


def test_folder_made_by_another_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """Two exports to one place: the second must say so, not mix with the first."""
    target = tmp_path / "export"
    with pytest.raises(InputError, match="exists already"), atomic_folder(target):  # noqa: PT012
        target.mkdir()
        (target / "theirs").write_text("theirs")
    assert contents(tmp_path) == {"export/theirs": "theirs"}


def test_killed_writer_leaves_the_old_folder(tmp_path: Path) -> None:
    """No handler runs on SIGKILL: only the order of the steps protects the old checkpoint."""
    target = tmp_path / "checkpoint"
    with atomic_folder(target) as draft:
        (draft / "a").write_text("old")
    code = (
        "import sys, pathlib, time\nfrom storage.files.atomic import atomic_folder\n"
        "with atomic_folder(pathlib.Path(sys.argv[1]), replace=True) as d:\n"
        "    (d / 'a').write_text('new'); print('written', flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, str(target)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.send_signal(signal.SIGKILL)
    assert contents(target) == {"a": "old"}
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_folder(target, replace=True) as draft:
        (draft / "a").write_text("newer")
    assert contents(tmp_path) == {"checkpoint/a": "newer"}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_the_next_writer_removes_no_draft_of_another(tmp_path: Path) -> None:
    """Two exports to one place at the same time: both drafts have the names that those of killed writers have."""
    target, foreign = tmp_path / "export", tmp_path / ".export.old.0123456789ab.new"
    foreign.mkdir()
    with atomic_folder(target, replace=True) as first:
        (first / "a").write_text("first")
        with atomic_folder(target, replace=True) as second:
            assert first.exists()
            (second / "a").write_text("second")
    assert contents(tmp_path) == {"export/a": "first"}
    # A writer that was killed between two renames: this is all that is left of the folder until another is complete.
    old = target.rename(tmp_path / ".export.0123456789ab.old")
    for left in (True, False):
        with atomic_folder(target, replace=True):
            assert old.exists() == left
    assert sorted(tmp_path.iterdir()) == [foreign, target]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Beyond the limit a write fails as on a full disk: Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_error_that_names_the_place_and_leaves_nothing(tmp_path: Path) -> None:
    """Raised by a library it names a hidden draft or nothing, and empty folders look like a result."""
    target, files = tmp_path / "exports" / "of" / "shop", tmp_path / "reports" / "shop"
    words = r"cannot write {} \(File too large\): free space there"
    with files_of_at_most(100):
        with pytest.raises(ArtifactsUnavailable, match=words.format(target)), atomic_folder(target) as draft:
            (draft / "weights").write_bytes(bytes(101))
        with pytest.raises(ArtifactsUnavailable, match=words.format(target)), atomic_folder(target) as draft:
            save_file({"w": np.zeros(99)}, draft / "weights")
        with pytest.raises(ArtifactsUnavailable, match=words.format(files / "a")):
            atomic_files(files, {"a": b"a", "b": bytes(101)})
        assert list(tmp_path.iterdir()) == []
        atomic_files(files, {"a": b"old"})
        with pytest.raises(ArtifactsUnavailable):
            atomic_files(files, {"a": b"new", "b": bytes(101)})
    assert contents(tmp_path) == {"reports/shop/a": "old"}


def test_a_file_in_the_place_of_a_parent_is_named(tmp_path: Path) -> None:
    """Of two writers of one folder the second meets an error of the same number, which is no fault of the place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactsUnavailable, match=rf"cannot write {tmp_path}/file/x \(Not a directory"):
        atomic_write(tmp_path / "file" / "x", b"")
    raced = FileExistsError(errno.EEXIST, "File exists", str(tmp_path / "draft"))
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "export"):
        raise raced


def test_errors_of_the_block_that_are_no_failed_writes_stay_as_they_are(tmp_path: Path) -> None:
    """Data that may not be read would be called an export that cannot be written."""
    for error in (PermissionError(errno.EACCES, "denied", "/data/log.csv"), FileNotFoundError(2, "gone"), ValueError()):
        with pytest.raises(type(error)) as caught, atomic_folder(tmp_path / "export"):
            raise error
        assert caught.value is error
    with (
        pytest.raises(ArtifactsUnavailable, match=r"cannot write /other/tmp \(full\)"),
        atomic_folder(tmp_path / "export"),
    ):
        raise OSError(errno.ENOSPC, "full", "/other/tmp")


def test_a_place_is_checked_before_the_work(tmp_path: Path) -> None:
    """Hours later it is too late to learn that a folder is not to be written, or a disk too small."""
    place = tmp_path / "missing" / "export"
    check_place(place, "name another")
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=rf"cannot write .*: {tmp_path}/file takes no files \(Not a dir.*; name another"
    ):
        check_place(tmp_path / "file" / "export", "name another")
    with pytest.raises(InputError, match=r"it takes 1,0.* MB, and the disk of .* has room for .*; free disk space"):
        check_place(place, "name another", needs=10**18)
    with files_of_at_most(100), pytest.raises(InputError, match=rf"{tmp_path} takes no files \(File too large\)"):
        check_place(place, "name another")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_file_is_replaced_whole_and_digested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest cut short by a full disk must not take the place of a good one."""
    path = tmp_path / "manifest.json"
    atomic_write(path, b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ArtifactsUnavailable, match=rf"cannot write {path} \(No space"):
        atomic_write(path, b"longer")
    assert contents(tmp_path) == {"manifest.json": "abc"}
