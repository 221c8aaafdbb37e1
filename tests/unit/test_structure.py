"""The layout: imports go one way and never in a circle, and no folder, module or function grows beyond reading."""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("hpo", "distill", "studies", "storage")
MODULES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
SOURCES = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in MODULES}
MODULES_PER_FOLDER, LINES_PER_MODULE, LINES_PER_FUNCTION = 12, 300, 40


def imported(source: str) -> Iterator[tuple[str, str]]:
    """Yield every absolute import of a file, (module, name or ""): at the top, in a function, for type checking."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def wrong_way(layer: str, source: str) -> list[str]:
    """Return what a file of `layer` imports from its left, or from the tests and benchmarks."""
    forbidden = {*LAYERS[: LAYERS.index(layer)], "tests", "benchmarks"}
    return [module for module, _ in imported(source) if module.split(".")[0] in forbidden]


def dotted(path: Path) -> str:
    """Return the name that a file is imported by."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def graph(sources: dict[Path, str]) -> dict[str, set[str]]:
    """Return which of the modules each one imports."""
    names = {dotted(path) for path in sources}
    found: dict[str, set[str]] = {}
    for path, source in sources.items():
        pairs = imported(source)
        wanted = {f"{module}.{name}" if f"{module}.{name}" in names else module for module, name in pairs}
        found[dotted(path)] = (wanted & names) - {dotted(path)}
    return found


def cycle(sources: dict[Path, str]) -> list[str]:
    """Return modules that import each other in a circle; none where there is no circle."""
    try:
        TopologicalSorter(graph(sources)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_go_only_rightwards() -> None:
    """Hpo → distill → studies → storage: one import back, and no part can be read or replaced on its own."""
    wrong = {str(path): wrong_way(path.parts[0], source) for path, source in SOURCES.items()}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Of two that need each other, neither can be understood, tested or moved alone."""
    assert cycle(SOURCES) == []


def test_the_rules_see_every_kind_of_import() -> None:
    """A rule that misses imports inside functions is no rule."""
    source = (
        "import hpo.cli\nimport torch, studies\ndef f():\n    from distill import export\n    import storage.home\n"
    )
    assert wrong_way("storage", source) == ["hpo.cli", "studies", "distill"]
    assert wrong_way("distill", source) == ["hpo.cli"]
    assert wrong_way("hpo", source) == []
    lazy = {Path("a/b.py"): "def f():\n    from a import c\n", Path("a/c.py"): "from a.b import f\n"}
    assert set(cycle(lazy)) == {"a.b", "a.c"}
    typed = {Path("a/b.py"): "if TYPE_CHECKING:\n    import a.c\n", Path("a/c.py"): "import a.b\n"}
    assert set(cycle(typed)) == {"a.b", "a.c"}


def test_there_are_modules_to_check() -> None:
    """A moved package would leave the rules with nothing to refuse."""
    assert {path.parts[0] for path in SOURCES} == set(LAYERS)
    assert sum(map(len, graph(SOURCES).values())) > len(SOURCES)


def test_no_folder_module_or_function_is_too_large_to_read() -> None:
    """The one place for a thing is found by looking only while there are few of them, each of a page or so."""
    folders = {path.parent for path in SOURCES}
    crowded = {str(f): n for f in folders if (n := sum(p.parent == f for p in SOURCES) - 1) > MODULES_PER_FOLDER}
    long = {str(path): n for path, source in SOURCES.items() if (n := source.count("\n")) > LINES_PER_MODULE}
    functions = {f"{path}: {name}": n for path, source in SOURCES.items() for name, n in lengths(source)}
    endless = {name: n for name, n in functions.items() if n > LINES_PER_FUNCTION}
    assert (crowded, long, endless) == ({}, {}, {})


def lengths(source: str) -> Iterator[tuple[str, int]]:
    """Yield the functions of a file with their lines, those of the docstring not counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            said = ast.get_docstring(node) is not None and len(node.body) > 1
            yield node.name, (node.end_lineno or 0) - (node.body[1] if said else node).lineno + 1


@pytest.mark.parametrize("folder", LAYERS)
def test_no_module_is_named_utils_or_like_one_of_the_standard_librarys(folder: str) -> None:
    """Run as a script, a folder's own `secrets.py` or `profile.py` replaces the one that Python's library imports."""
    paths = [path for path in SOURCES if path.parts[0] == folder]
    names = {path.stem if path.stem != "__init__" else path.parent.name for path in paths}
    assert names & (sys.stdlib_module_names | {"utils", "util", "helpers", "common", "misc"}) == set()
    tests = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert folder not in tests, "pytest would import this folder in place of the package"
