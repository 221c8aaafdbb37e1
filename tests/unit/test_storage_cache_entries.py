"""Cache entries: what a disk, a copy or a hand has changed is noticed before it is used."""

import logging
from pathlib import Path

import pytest

from storage.files.cache_entries import damage, intact, new_entry
from tests.damages import DAMAGES


def entry(folder: Path) -> Path:
    """Makes an entry of two files; returns it."""
    with new_entry(folder / "entry") as draft:
        (draft / "rows.bin").write_bytes(bytes(range(256)))
        (draft / "about.json").write_text("{}")
    return folder / "entry"


@pytest.mark.parametrize("name", ["rows.bin", "about.json", "digests.json"])
@pytest.mark.parametrize("way", DAMAGES)
def test_a_damaged_file_is_named_once_and_the_entry_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, way: str
) -> None:
    """Read as it is, it would give another recall and no error."""
    path = entry(tmp_path)
    assert intact(path)
    assert caplog.records == []
    (path / name).write_bytes(DAMAGES[way]((path / name).read_bytes()))
    assert not intact(path)
    said = f"damaged cache: {path / name} was truncated or altered; it is made again"
    assert [(record.levelno, record.message) for record in caplog.records] == [(logging.WARNING, said)]
    assert intact(entry(tmp_path)), "made again, it replaces the damaged one"
    assert [file.name for file in tmp_path.iterdir()] == ["entry"]


@pytest.mark.parametrize("name", ["rows.bin", "digests.json"])
def test_a_missing_file_is_damage_and_a_missing_entry_is_none(tmp_path: Path, name: str) -> None:
    """The first start of a study must not speak of damage."""
    assert not intact(tmp_path / "entry")
    path = entry(tmp_path)
    (path / name).unlink()
    assert damage(path) == f"{path / name} cannot be read (No such file or directory)"


def test_of_two_that_make_the_same_entry_at_once_one_stays(tmp_path: Path) -> None:
    """Workers start together; the second to finish must not fail for it."""
    with new_entry(tmp_path / "entry") as draft:
        (draft / "rows.bin").write_bytes(b"1")
        entry(tmp_path)
    assert intact(tmp_path / "entry")
    assert len(list(tmp_path.iterdir())) == 1
