"""The layout: imports go one way, and no module hides behind a name that says nothing or means another."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("hpo", "distill", "studies", "storage")
MODULES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imported(source: str) -> Iterator[str]:
    """Every absolute module name that a file imports, at the top, in a function or for type checking alone."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield node.module or ""


def wrong_way(layer: str, source: str) -> list[str]:
    """What a file of `layer` imports from its left, or from the tests and benchmarks."""
    forbidden = {*LAYERS[: LAYERS.index(layer)], "tests", "benchmarks"}
    return [name for name in imported(source) if name.split(".")[0] in forbidden]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_only_rightwards(path: Path) -> None:
    """Hpo → distill → studies → storage: one import back, and no part can be read or replaced on its own."""
    assert wrong_way(path.relative_to(ROOT).parts[0], path.read_text(encoding="utf-8")) == []


def test_the_rule_sees_every_kind_of_import() -> None:
    """A rule that misses imports inside functions is no rule."""
    source = (
        "import hpo.cli\nimport torch, studies\ndef f():\n    from distill import export\n    import storage.home\n"
    )
    assert wrong_way("storage", source) == ["hpo.cli", "studies", "distill"]
    assert wrong_way("distill", source) == ["hpo.cli"]
    assert wrong_way("hpo", source) == []


def test_there_are_modules_to_check() -> None:
    """A moved package would leave the rule with nothing to refuse."""
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(LAYERS)


def test_no_module_is_named_utils_or_like_one_of_the_standard_librarys() -> None:
    """Run as a script, a folder's own `secrets.py` or `profile.py` replaces the one that Python's library imports."""
    names = {path.stem if path.stem != "__init__" else path.parent.name for path in MODULES}
    assert names & (sys.stdlib_module_names | {"utils", "util", "helpers", "common", "misc"}) == set()
    tests = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert tests & set(LAYERS) == set(), "pytest would import these folders in place of the packages"
