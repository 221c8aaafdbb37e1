"""docs/tutorial.md, run as its reader runs it: the files it writes, its study file, its commands, its Python."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from tests.mini import shell

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(kind: str, body: str, folder: Path) -> str:
    """Do with a block what its reader does; return what it prints."""
    if kind == "toml":
        (folder / "shop.toml").write_text(body)
        return ""
    if kind == "python":
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(body, "tutorial.md", "exec"), {"__name__": "__main__"})
        return printed.getvalue()
    done = shell(body.strip(), folder)
    assert done.returncode == 0, f"{body}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_tutorial_runs_as_it_stands(tmp_path, database_url, monkeypatch):
    """A tutorial that breaks at its third command is the last thing a newcomer reads."""
    monkeypatch.setenv("HPO_DATABASE_URL", database_url)
    blocks = BLOCK.findall(TUTORIAL.read_text(encoding="utf-8"))
    assert [kind for kind, _ in blocks].count("toml") == 1
    printed = "".join(run(kind, body, tmp_path) for kind, body in blocks)
    for words in ("leakage audit", "Validation recall@5", "Test recall@5", "pruning saved", "ann", "bob"):
        assert words in printed
    figures = json.loads((tmp_path / "reports" / "shop" / "report.json").read_text())
    assert "student" in figures["evaluation"]["systems"]
    assert (tmp_path / "exports" / "shop" / "manifest.json").is_file()
