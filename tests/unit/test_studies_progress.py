"""Long steps of a study say how far they are, up to their end; what is cached says nothing."""

from pathlib import Path

import pytest

from studies.data import loading, source_cache
from studies.data.files.source import Files
from studies.training.prepare import prepare
from tests.heard import Heard
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec


def test_every_long_step_of_a_problem_reports_to_its_end(tmp_path: Path) -> None:
    """On five million rows each of these takes many seconds, during which a silent program looks hung."""
    spec, data = tiny_spec(tiny_encoder(tmp_path / "bert")), planted_dataset()
    first, second = Heard(), Heard()
    problem = prepare(spec, tmp_path / "cache", reporter=first, data=data)
    episodes = problem.train, problem.validation, problem.test
    problem.by_shots("test")
    texts, parts = len(data.texts), ("train", "validation", "test")
    assert first.reports["splitting texts into tokens"][-1] == (texts, texts)
    assert first.reports["counting the texts' words"][-1] == (texts, texts)
    assert first.reports["encoding texts"][-1] == (texts, texts)
    for part, drawn in zip(parts, episodes, strict=True):
        scenes = len(problem.split.scenes[part])
        assert first.reports[f"sampling meta-{part} episodes"] == [(n, scenes) for n in range(1, scenes + 1)]
        assert first.reports[f"auditing meta-{part} episodes"][len(drawn) - 1] == (len(drawn), len(drawn))
    sizes = len(problem.by_shots("test"))
    assert first.reports["sampling meta-test episodes of other sizes"][-1] == (sizes, sizes)
    prepare(spec, tmp_path / "cache", reporter=second, data=data)
    assert "encoding texts" not in second.reports


def test_reading_large_files_is_announced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute of silence at the first start, and none at the second: the cache is quick."""
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp,shop,title\n" + "".join(f"{n},i{n},{n + 9},s,t {n}\n" for n in range(50)))
    section = Files(source="files", interactions=[str(log)], scene="shop", text="title")
    small, large, again = Heard(), Heard(), Heard()
    loading.read_source(section, tmp_path / "one", small)
    assert small.notes == []
    monkeypatch.setattr(source_cache, "LARGE", 1)
    loading.read_source(section, tmp_path / "two", large)
    loading.read_source(section, tmp_path / "two", again)
    assert large.notes == ["reading 1 file, 0 MB", "coding 50 interactions"]
    assert again.notes == []
