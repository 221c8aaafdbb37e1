"""Files and folders appear whole or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from storage.errors import InputError
from storage.files.atomic import atomic_folder, atomic_write, sha256

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


def test_file_is_replaced_whole_and_digested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest cut short by a full disk must not take the place of a good one."""
    path = tmp_path / "manifest.json"
    atomic_write(path, b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        atomic_write(path, b"longer")
    assert contents(tmp_path) == {"manifest.json": "abc"}
