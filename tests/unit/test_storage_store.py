"""Checkpoints in a store that machines share: a mounted folder, memory, and a server that speaks S3."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import s3fs
import torch
from moto.server import ThreadedMotoServer

from storage.errors import CorruptArtifact, InputError, ScenetuneError
from storage.files import checkpoints, store
from storage.home import study_folder, trial_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Return the address of an S3 server."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["file", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of an empty store, which `HPO_ARTIFACTS` names."""
    place = tmp_path.name
    named = {"file": f"file://{tmp_path}/shared/store", "memory": f"memory://{place}", "s3": f"s3://bucket/{place}"}
    if request.param == "s3":
        secrets = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in (secrets | {"AWS_ENDPOINT_URL": request.getfixturevalue("s3")}).items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem(use_listings_cache=False).makedirs("bucket", exist_ok=True)
    monkeypatch.setenv("HPO_ARTIFACTS", named[request.param])
    return named[request.param]


def saved(folder: Path, *steps: int) -> Path:
    """Return a trial's folder with a checkpoint saved at each step."""
    for step in steps:
        checkpoints.save(folder, step, {"w": torch.full((3,), float(step))}, {"step": step})
    return folder


def stored(url: str) -> list[str]:
    """Return every file in the store, below its root."""
    files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return sorted(file.removeprefix(f"{root}/") for file in files.find(root))


def damage(url: str, file: str) -> None:
    files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    files.pipe_file(f"{root}/{file}", files.cat_file(f"{root}/{file}")[:-1])


def move(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Goes to another machine, where the trial's folder is empty."""
    monkeypatch.setenv("HPO_HOME", str(tmp_path / "elsewhere"))
    return trial_folder("s", 1)


def test_a_trial_goes_on_from_the_store_on_another_machine(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spot machine that is taken back would take all its trials' rungs with it."""
    saved(trial_folder("s", 1), 5, 30, 90)
    files = ("checkpoint.json", "weights.safetensors")
    assert stored(url) == [f"s/trial-00001/step-{step:06d}/{file}" for step in (30, 90) for file in files]
    there = move(monkeypatch, tmp_path)
    assert checkpoints.last(there)[1] == {"step": 90}
    assert [path.name for path in there.iterdir()] == ["step-000090"]
    saved(there, 270)
    assert {file.split("/")[2] for file in stored(url)} == {"step-000090", "step-000270"}
    monkeypatch.setenv("HPO_HOME", str(tmp_path / "hpo"))
    found = checkpoints.newest_valid(trial_folder("s", 1))
    assert found is not None
    assert found[0]["w"].tolist() == [270.0] * 3, "what is older here gives way"


def test_what_is_newer_here_stays_and_is_uploaded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before its upload, a trial's last rung would be missing where it is distilled, and an older one taken."""
    folder = saved(trial_folder("s", 1), 30)
    monkeypatch.delenv("HPO_ARTIFACTS")
    saved(folder, 90)
    monkeypatch.setenv("HPO_ARTIFACTS", url)
    found = checkpoints.newest_valid(folder)
    assert found is not None
    assert found[1] == {"step": 90}
    assert "s/trial-00001/step-000090/checkpoint.json" in stored(url)


def test_an_upload_that_broke_off_is_no_checkpoint(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest comes last for that: weights alone say nothing about whether they are whole."""
    saved(trial_folder("s", 1), 30, 90)
    files, root = fsspec.core.url_to_fs(url)
    files.rm_file(f"{root}/s/trial-00001/step-000090/checkpoint.json")
    there = move(monkeypatch, tmp_path)
    assert checkpoints.last(there)[1] == {"step": 30}


def test_what_was_damaged_in_the_store_is_not_taken(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A digest that is checked where it was written proves nothing about what arrives."""
    here = saved(trial_folder("s", 1), 30, 90)
    (here / "step-000090" / "weights.safetensors").write_bytes(b"")
    assert checkpoints.last(here)[1] == {"step": 90}, "the store has it whole"
    assert "downloading it again from the store" in caplog.text
    damage(url, "s/trial-00001/step-000090/weights.safetensors")
    there = move(monkeypatch, tmp_path)
    with pytest.raises(CorruptArtifact, match=r"store has of .*step-000090 is incomplete .* restore it from a copy"):
        checkpoints.last(there)
    found = checkpoints.newest_valid(there)
    assert found is not None
    assert found[1] == {"step": 30}
    assert "step-000090 is incomplete or was altered" in caplog.text
    assert [path.name for path in there.iterdir()] == ["step-000030"]


def test_a_study_is_removed_and_no_other(url: str) -> None:
    """Read as a pattern, the name of one study would take all of them along."""
    for name in ("a", "ab", "[a]*", "*"):
        saved(trial_folder(name, 0), 1)
    store.remove(study_folder("*"))
    assert {file.split("/")[0] for file in stored(url)} == {"a", "ab", "[a]*"}
    store.remove(study_folder("[a]*"))
    store.remove(study_folder("a"))
    store.remove(study_folder("never was"))
    assert {file.split("/")[0] for file in stored(url)} == {"ab"}


def test_a_copy_has_the_files_of_here_and_of_the_store(url: str) -> None:
    """A restored study starts with the checkpoints of the one that the backup was taken of, and keeps its own."""
    old, new = trial_folder("old", 0), trial_folder("new", 0)
    saved(old, 1)
    shutil.rmtree(old)
    assert store.copy(old, new)
    assert [checkpoints.last(folder)[1] for folder in (old, new)] == [{"step": 1}] * 2
    store.remove(study_folder("old"))
    shutil.rmtree(study_folder("new"))
    assert checkpoints.last(new)[1] == {"step": 1}
    assert not store.copy(trial_folder("old", 1), trial_folder("new", 1))


def test_a_folder_outside_the_artifacts_is_not_stored(url: str, tmp_path: Path) -> None:
    """A benchmark's throwaway trial would meet another's checkpoints under its name."""
    assert checkpoints.last(saved(tmp_path / "run", 1))[1] == {"step": 1}
    assert stored(url) == []


def test_a_store_that_works_is_left_as_it_was(url: str) -> None:
    """A probe left behind at each launch would litter the bucket."""
    store.check_store()
    assert stored(url) == []


@pytest.mark.parametrize("url", ["s3"], indirect=True)
def test_a_bucket_that_does_not_exist_is_refused_before_work_begins(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found out at the first rung, or made by a typing error, it costs hours or money."""
    monkeypatch.setenv("HPO_ARTIFACTS", "s3://buckte/prefix")
    with pytest.raises(InputError, match=r"s3://buckte/prefix failed .*bucket does not exist.*: check HPO_ARTIFACTS"):
        store.check_store()
    with pytest.raises(ScenetuneError, match=r"uploading .*step-000001 to the store s3://buckte/prefix failed"):
        saved(trial_folder("s", 1), 1)


def test_an_upload_that_fails_keeps_the_checkpoint_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is away for an hour must not cost what was trained in it."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HPO_ARTIFACTS", f"file://{tmp_path}/file")
    folder = trial_folder("s", 1)
    with pytest.raises(ScenetuneError, match=r"uploading .* failed \(.*Not a directory|File exists"):
        saved(folder, 1)
    monkeypatch.delenv("HPO_ARTIFACTS")
    assert checkpoints.last(folder)[1] == {"step": 1}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("bucket/prefix", "'bucket/prefix': accepted is a URL such as s3://bucket/prefix"),
        ("nonsense://x", r"'nonsense://x' \(Protocol not known: nonsense\): accepted is"),
        ("ftp://me:hush@127.0.0.1:1/x?key=hush", r"'?ftp://127.0.0.1:1/x'? .*refused"),
    ],
)
def test_a_store_that_cannot_be_opened_is_told_without_its_secrets(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logs and bug reports are passed around, and a password with them."""
    monkeypatch.setenv("HPO_ARTIFACTS", url)
    with pytest.raises(InputError, match=said) as caught:
        store.check_store()
    assert "hush" not in str(caught.value)


def test_artifacts_that_cannot_be_written_here_are_told_before_work_begins(tmp_path: Path) -> None:
    """With a store or without, checkpoints are written here first."""
    store.check_store()
    (tmp_path / "hpo" / "artifacts").rmdir()
    (tmp_path / "hpo" / "artifacts").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*artifacts \(File exists\).*HPO_HOME"):
        store.check_store()


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError would end in a traceback about a module that the user never heard of."""
    monkeypatch.setenv("HPO_ARTIFACTS", "s3://bucket/prefix")
    code = (
        "import sys; sys.modules['s3fs'] = None\nfrom storage import errors\nfrom storage.files import store\n"
        "try:\n    store.check_store()\nexcept errors.InputError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "package for s3 is missing: pip install 'scenetune[s3]'" in done.stdout
