"""Where state goes: the home and a study's folders in it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InputError
from storage.home import check_study_name, home, study_folder, trial_folder


def test_home_is_made_private_and_ignored_by_git(tmp_path: Path) -> None:
    """Databases committed by accident, or readable by the whole machine, are found out too late."""
    path = home()
    assert path == tmp_path / "hpo"
    assert path.stat().st_mode & 0o777 == 0o700
    assert (path / ".gitignore").read_text() == "*\n"


def test_home_defaults_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path kept as such would point elsewhere after a change of directory."""
    monkeypatch.delenv("HPO_HOME")
    monkeypatch.chdir(tmp_path)
    assert home() == tmp_path / ".hpo"
    assert home().is_absolute()


def test_existing_home_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `.gitignore` dropped into a folder of the user's would hide their files from git."""
    monkeypatch.setenv("HPO_HOME", str(tmp_path))
    tmp_path.chmod(0o755)
    assert home() == tmp_path
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert list(tmp_path.iterdir()) == []


def test_home_that_is_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a message of its own this ends in a traceback about mkdir."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HPO_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="set HPO_HOME"):
        home()


@pytest.mark.parametrize("name", ["line\nbreak", "tab\t", "\x7f"])
def test_home_with_a_control_character_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """PostgreSQL's starter waits two minutes for a server that it cannot find in its own file of lines."""
    (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / name)
    for path in (tmp_path / name, tmp_path / name / ".hpo", tmp_path / "link"):
        monkeypatch.setenv("HPO_HOME", str(path))
        with pytest.raises(InputError, match=r"has a line break or another control character .* set HPO_HOME"):
            home()


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-rf", "a/b", "../up", "a\\b", "/etc", "a\nb", "a\0b", "é" * 101]
)
def test_study_name_that_is_no_folder_name_is_refused(name: str) -> None:
    """`hpo delete ../..` must not reach anything outside the home."""
    with pytest.raises(InputError, match="study name"):
        study_folder(name)


@given(name=st.text(max_size=30))
def test_accepted_study_names_stay_directly_under_the_artifacts(name: str) -> None:
    """Whatever passes the check must be one level below, or two studies could share files."""
    try:
        folder = study_folder(name)
    except InputError:
        return
    assert folder.resolve().parent == (home() / "artifacts").resolve()
    assert folder.name == name


def test_trials_have_folders_of_their_own(tmp_path: Path) -> None:
    """A negative number, as from a missing trial, must not become a folder."""
    assert trial_folder("cold start", 7) == tmp_path / "hpo" / "artifacts" / "cold start" / "trial-00007"
    with pytest.raises(InputError, match="numbered from 0"):
        trial_folder("cold start", -1)


def test_the_longest_name_of_a_study_leaves_room_for_its_folders() -> None:
    """Its distillation failed after hours of search, for a folder's name that was too long."""
    check_study_name("x" * 180)
    assert study_folder(f"{'x' * 180}-distill-1a2b3c4d")
    with pytest.raises(InputError, match="1 to 180 bytes"):
        check_study_name("x" * 181)
