"""The cache of activations on disk: what it holds, how large it grows, and several processes at it at once."""

import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from storage.errors import InputError
from studies.config.definition import TeacherSection
from studies.model.device import full_precision
from studies.model.encoder import Encoder, load, tokenize
from tests.cache_builder import (
    SEVERAL_BATCHES,
    TEXTS,
    build_in_process,
    cache,
    computes,
    die_in_process,
    use_in_process,
)
from tests.damages import DAMAGES
from tests.synthetic import tiny_encoder

OTHERS, MORE = TEXTS[:-1], TEXTS[:-2]
FORKED = multiprocessing.get_context("forkserver")


@pytest.fixture(autouse=True)
def _default_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HPO_CACHE_GIB", raising=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return load(TeacherSection(encoder=str(model)))


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the limit in bytes."""
    return lambda size: monkeypatch.setenv("HPO_CACHE_GIB", repr(size / 2**30))


def study(folder: Path, encoder: Encoder, texts: list[str], layers: Collection[int] = (0,)) -> bool:
    """Builds and lets go, as a process does that ends; whether anything had to be computed."""
    return computes(cache(folder, encoder, texts), layers)


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.npy"))


def age(folder: Path, seconds: int) -> None:
    """Makes all entries look unused for `seconds` longer."""
    for file in folder.rglob("*.npy"):
        os.utime(file, (before := file.stat().st_mtime - seconds, before))


def states(encoder: Encoder, text: str) -> list[Tensor]:
    """What enters each layer and what leaves the last, each (L, D), from the plain model without any padding."""
    with torch.no_grad():
        out = encoder.model(**encoder.tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    return [state[0] for state in out.hidden_states]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_hidden_states_are_the_models_own_at_that_depth(encoder: Encoder, tmp_path: Path, layers: int) -> None:
    """A depth off by one, or a row written in another's place, gives a tower that trains, from a worse start."""
    built = cache(tmp_path, encoder)
    with full_precision():
        built.build({0, 1, 2, 3})
    expected = torch.cat([states(encoder, text)[encoder.layers - layers] for text in TEXTS])
    torch.testing.assert_close(built.hidden(layers).values.float(), expected, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("layers", [{4}, {0, 2, 4}])
def test_a_tower_of_all_layers_starts_from_the_rows_of_the_token_table(
    encoder: Encoder, tmp_path: Path, layers: set[int]
) -> None:
    """With positions and LayerNorm in the cached sum already, the tower would add them twice and train neither."""
    built = cache(tmp_path, encoder)
    built.build(layers)
    hidden = built.hidden(encoder.layers)
    ids = tokenize(encoder.tokenizer, TEXTS, 32)
    table = encoder.model.embeddings.word_embeddings.weight
    assert torch.equal(hidden.values, table[ids.values].to(torch.bfloat16))
    assert torch.equal(hidden.offsets, ids.offsets)


def test_one_pass_fills_all_depths_and_a_second_build_computes_nothing(encoder: Encoder, tmp_path: Path) -> None:
    """Every worker calls build: recomputing would cost each of them minutes."""
    calls: list[tuple[int, int]] = []
    cache(tmp_path, encoder).build({0, 1, 3}, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (len(TEXTS), len(TEXTS))
    again = cache(tmp_path, encoder)
    assert not computes(again, {0, 1, 3})
    separate = cache(tmp_path / "separate", encoder)
    separate.build({3})
    assert torch.equal(separate.hidden(3).values, again.hidden(3).values)
    other = cache(tmp_path, encoder, OTHERS)
    assert computes(other, {0}), "other texts were served from the first ones' cache"
    assert len(other.pooled()) == len(OTHERS)


def test_an_interrupted_build_leaves_nothing_half_written(encoder: Encoder, tmp_path: Path) -> None:
    """A cache of which half is zeros would be believed by every later run."""
    built = cache(tmp_path / "cache", encoder, SEVERAL_BATCHES)

    def interrupt(done: int, total: int) -> None:
        assert done < total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built.build({0, 1}, interrupt)
    assert entries(tmp_path / "cache") == set()
    built.build({0, 1})
    whole = cache(tmp_path / "whole", encoder, SEVERAL_BATCHES)
    whole.build({0, 1})
    assert torch.equal(built.pooled(), whole.pooled())
    assert torch.equal(built.hidden(1).values, whole.hidden(1).values)


def test_the_disk_space_is_reserved_before_anything_is_computed(encoder: Encoder, tmp_path: Path) -> None:
    """Space that runs out while a map is written ends the process with SIGBUS, after hours and without a word."""
    seen: list[tuple[int, int]] = []

    def look(done: int, total: int) -> None:
        (draft,) = tmp_path.glob(".*/hidden.npy")
        seen.append((draft.stat().st_size, draft.stat().st_blocks * 512))

    # Longest first, as batches are: the first one writes the file's beginning and no more.
    built = cache(tmp_path, encoder, sorted(SEVERAL_BATCHES, key=lambda text: -len(text.split())))
    built.build({1}, look)
    assert len(seen) > 1
    assert all(length == size(tmp_path) <= allocated for length, allocated in seen)


def test_a_disk_that_has_no_room_after_all_is_an_error_that_says_so(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quotas and other writers are not in the free space that was asked for first."""

    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"cannot reserve 0\.01 GiB .* \(No space left on device\); free disk"):
        cache(tmp_path, encoder).build({0})
    assert entries(tmp_path) == set()


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "20GiB", "1e999"])
def test_a_limit_that_is_no_size_is_refused_before_anything_happens(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """Read as zero it would throw the cache away; read as no limit it would fill the disk."""
    cache(tmp_path, encoder).build({0})
    before = entries(tmp_path)
    monkeypatch.setenv("HPO_CACHE_GIB", given)
    with pytest.raises(InputError, match=re.escape(f"HPO_CACHE_GIB = {given!r}: it must be a positive number")):
        computes(cache(tmp_path, encoder, OTHERS), {0})
    assert entries(tmp_path) == before


def test_the_least_recently_used_make_way_and_nothing_else_does(
    encoder: Encoder, tmp_path: Path, limit: Callable[[int], None]
) -> None:
    """First in, first out would remove the study at work; a careless pattern, the data sets beside it."""
    foreign = ["data", "0" * 24, "0" * 24 + "-top0.backup", "." + "0" * 24 + "-top0.mine"]
    for name in foreign:
        (tmp_path / name).mkdir()
        (tmp_path / name / "pooled.txt").write_bytes(bytes(9999))
    names = {}
    for name, texts in {"texts": TEXTS, "others": OTHERS}.items():
        before = entries(tmp_path)
        study(tmp_path, encoder, texts)
        (names[name],) = entries(tmp_path) - before
        age(tmp_path, 100)
    limit(size(tmp_path))
    assert not study(tmp_path, encoder, TEXTS)
    assert study(tmp_path, encoder, MORE)
    assert entries(tmp_path) >= {names["texts"], *foreign}
    assert names["others"] not in entries(tmp_path)
    assert not study(tmp_path, encoder, TEXTS)
    assert not study(tmp_path, encoder, MORE)


def test_as_little_as_needed_is_removed(encoder: Encoder, tmp_path: Path, limit: Callable[[int], None]) -> None:
    """A cache that empties itself at its limit makes every study pay for all of its texts again."""
    study(tmp_path, encoder, TEXTS, {0, 1, 2})
    kept = entries(tmp_path)
    study(tmp_path / "measured", encoder, OTHERS)
    limit(size(tmp_path))  # of both folders
    study(tmp_path, encoder, OTHERS)
    assert entries(tmp_path) > kept


def test_what_a_build_needs_is_not_removed_for_it(
    encoder: Encoder, tmp_path: Path, limit: Callable[[int], None]
) -> None:
    """Removing the half that is there to make room for the other half would never end."""
    study(tmp_path, encoder, TEXTS, {0, 1})
    limit(size(tmp_path))
    age(tmp_path, 100)
    shutil.rmtree(next(tmp_path.glob("*-top0")))
    study(tmp_path, encoder, MORE)
    age(tmp_path, -1000)  # the other study's entry is the last used, whatever the next build touches
    built = cache(tmp_path, encoder)
    assert computes(built, {0, 1})
    assert (len(built.pooled()), len(built.hidden(1))) == (len(TEXTS), len(TEXTS))
    assert len(entries(tmp_path)) == 2


def test_the_limit_holds_to_the_byte(encoder: Encoder, tmp_path: Path, limit: Callable[[int], None]) -> None:
    """Sizes are known beforehand: a guess too low breaks the promise, one too high refuses what would fit."""
    study(tmp_path / "measured", encoder, TEXTS, {0, 1, 4})
    needed = size(tmp_path / "measured")
    study(tmp_path / "cache", encoder, OTHERS)
    before = entries(tmp_path / "cache")
    limit(needed - 1)
    said = (
        r"trainable_layers 0, 1, 4 need 0\.01 GiB .*but the cache may hold .* GiB; set HPO_CACHE_GIB to 0\.01 or more, "
        r"lower teacher\.max_tokens, or search fewer values of trainable_layers"
    )
    with pytest.raises(InputError, match=said):
        computes(cache(tmp_path / "cache", encoder), {0, 1, 4})
    assert entries(tmp_path / "cache") == before
    limit(needed)
    assert study(tmp_path / "cache", encoder, TEXTS, {0, 1, 4})
    assert size(tmp_path / "cache") == needed


def test_a_disk_nearly_full_makes_room_too_and_a_full_one_is_refused(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit says nothing about what else is on the disk."""
    study(tmp_path, encoder, TEXTS)
    before = entries(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(InputError, match=r"need 0\.01 GiB more, but the disk of .* has room for 0\.00 GiB; free disk"):
        study(tmp_path, encoder, OTHERS, {0, 1})
    assert entries(tmp_path) == before
    assert study(tmp_path, encoder, OTHERS)
    assert not entries(tmp_path) & before


@pytest.mark.parametrize("way", DAMAGES)
def test_a_damaged_entry_is_computed_again_with_one_line(
    encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """Zeros are embeddings too: every figure of the study would be wrong, and nothing would fail."""
    used = cache(tmp_path, encoder)
    used.build({0, 1})
    whole, held = used.pooled().clone(), used.pooled()
    (file,) = tmp_path.glob("*-top0/pooled.npy")
    other = tmp_path / "other.npy"
    other.write_bytes(DAMAGES[way](file.read_bytes()))
    other.replace(file)  # a file of its own, as a copied folder's is: what is mapped stays as it is
    again = cache(tmp_path, encoder)
    assert computes(again, {0, 1})
    assert torch.equal(again.pooled(), whole)
    assert torch.equal(held, whole)
    assert [record.message for record in caplog.records] == [
        f"damaged cache: {file} was truncated or altered; it is made again"
    ]
    assert not computes(cache(tmp_path, encoder), {0, 1})


def test_a_damaged_entry_in_use_stays_readable_to_its_user(encoder: Encoder, tmp_path: Path) -> None:
    """Removed while its embeddings are computed again, it would fail the trials of other workers for minutes."""
    used = cache(tmp_path, encoder)
    used.build({0})
    (file,) = tmp_path.glob("*-top0/pooled.npy")
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.write(b"\x7f")
    seen = []
    cache(tmp_path, encoder).build({0}, lambda done, total: seen.append(used.pooled().shape))
    assert seen == [(len(TEXTS), encoder.width)]


def test_a_disk_that_returns_something_else_is_an_error_that_says_so(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computed again and again, or believed: both would be worse."""
    monkeypatch.setattr("storage.files.cache_entries.sha256", lambda file: os.urandom(4).hex())
    with pytest.raises(InputError, match=r"pooled\.npy is read back altered: check the disk, or move HPO_HOME"):
        cache(tmp_path, encoder).build({0})


def test_an_entry_half_removed_is_no_entry(encoder: Encoder, tmp_path: Path) -> None:
    """A process killed while it makes room leaves a folder without its file."""
    study(tmp_path, encoder, TEXTS)
    (entry,) = tmp_path.glob("*-top0")
    (entry / "pooled.npy").unlink()
    assert study(tmp_path, encoder, TEXTS)
    assert not study(tmp_path, encoder, TEXTS)


def test_an_entry_removed_before_its_lock_is_held_is_computed_again(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking another process may remove it: the lock is then on a file without a name."""
    import fcntl

    study(tmp_path, encoder, TEXTS)
    removed = []

    def late(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_SH and not removed:
            removed.extend(tmp_path.glob("*-top0"))
            shutil.rmtree(removed[0])
        fcntl.flock(descriptor, operation)

    names = {name: getattr(fcntl, name) for name in ("LOCK_SH", "LOCK_EX", "LOCK_NB")}
    monkeypatch.setattr("studies.model.activation_cache.fcntl", SimpleNamespace(flock=late, **names))
    built = cache(tmp_path, encoder)
    assert computes(built, {0})
    assert removed
    assert len(built.pooled()) == len(TEXTS)


def test_activations_that_are_there_are_found_while_others_are_computed(encoder: Encoder, tmp_path: Path) -> None:
    """A worker joining one study would else wait for the whole catalogue of another."""
    study(tmp_path, encoder, TEXTS)
    found: list[bool] = []

    def join(done: int, total: int) -> None:
        worker = threading.Thread(target=lambda: found.append(study(tmp_path, encoder, TEXTS)), daemon=True)
        worker.start()
        worker.join(timeout=60)

    cache(tmp_path, encoder, OTHERS).build({0}, join)
    assert found == [False]


def test_two_processes_building_at_once_make_one_valid_cache(model: Path, encoder: Encoder, tmp_path: Path) -> None:
    """Workers start together: two writers of one file, or a reader of half a one, would poison all later trials."""
    gate, results = FORKED.Barrier(2), FORKED.Queue()
    where = tmp_path / "shared"
    arguments = (model, where, gate, results)
    workers = [FORKED.Process(target=build_in_process, args=arguments, daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(computed for computed, *_ in found) == [False, True]
    assert found[0][1:] == found[1][1:]
    alone = cache(tmp_path / "alone", encoder)
    alone.build({0, 2})
    torch.testing.assert_close(torch.tensor(found[0][1]), alone.pooled(), rtol=0, atol=8e-3)
    assert entries(where) == entries(tmp_path / "alone")


def test_what_a_living_process_uses_stays_until_it_ends(
    model: Path, encoder: Encoder, tmp_path: Path, limit: Callable[[int], None]
) -> None:
    """A trial of hours reads its activations long after it made sure that they are there."""
    built, ask, results = FORKED.Event(), FORKED.Event(), FORKED.Queue()
    worker = FORKED.Process(target=use_in_process, args=(model, tmp_path, built, ask, results), daemon=True)
    worker.start()
    assert built.wait(timeout=120)
    age(tmp_path, 1000)
    before = entries(tmp_path)
    limit(size(tmp_path))
    with pytest.raises(InputError, match=r"GiB that the cache may hold are in use; wait until other studies end, or"):
        study(tmp_path, encoder, OTHERS)
    assert entries(tmp_path) == before
    ask.set()
    assert len(results.get(timeout=120)) == len(TEXTS)
    worker.join()
    assert study(tmp_path, encoder, OTHERS)
    assert not entries(tmp_path) & before


@pytest.mark.parametrize("next_texts", [SEVERAL_BATCHES, TEXTS], ids=["the same texts", "other texts"])
def test_what_a_killed_builder_leaves_is_neither_believed_nor_kept(
    model: Path, encoder: Encoder, tmp_path: Path, limit: Callable[[int], None], next_texts: list[str]
) -> None:
    """Half of it is zeros; kept, each kill would take gigabytes of the disk and of the limit for ever."""
    where = tmp_path / "cache"
    worker = FORKED.Process(target=die_in_process, args=(model, where), daemon=True)
    worker.start()
    worker.join(timeout=120)
    assert worker.exitcode == -signal.SIGKILL
    assert len([name for name in entries(where) if name.startswith(".")]) == 2
    whole = cache(tmp_path / "whole", encoder, next_texts)
    whole.build({0, 1})
    limit(size(tmp_path / "whole"))
    built = cache(where, encoder, next_texts)
    assert computes(built, {0, 1})
    assert entries(where) == entries(tmp_path / "whole")
    assert torch.equal(built.pooled(), whole.pooled())
    assert torch.equal(built.hidden(1).values, whole.hidden(1).values)
