"""The peers' packages: in a folder of their own, which only the benchmark that asks for it puts on its path.

pip installs without dependencies, plus only what the imports need: torch is neither installed again nor replaced.
learn2learn is a special case. Its package compiles C that Cython generated for Python before 3.11, and imports gym,
torchvision and qpth on the way to MAML; its MAML and what that uses are pure torch, and are unpacked from the source
archive as they are.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from storage.files.atomic import atomic_folder

HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scenetune-benchmarks"
PACKAGES = {
    "learn2learn": ["learn2learn==0.2.0"],
    "higher": ["higher==0.2.1"],
    "torchopt": ["torchopt==0.7.3", "optree", "graphviz"],
}
_OF_LEARN2LEARN = ("_version.py", "algorithms/base_learner.py", "algorithms/maml.py", "utils/__init__.py")


def make_importable(packages: Mapping[str, Sequence[str]] = PACKAGES, home: str = "peers") -> list[str]:
    """Installs packages where they are missing; returns the names of those that are there.

    Args:
        packages: what pip is asked for, by the name of the folder that holds it.
        home: what those folders stand under.
    """
    found = []
    for name, requirements in packages.items():
        if importlib.util.find_spec(name):
            found.append(name)
            continue
        folder = HOME / f"{home}-py{sys.version_info.major}.{sys.version_info.minor}" / name
        try:
            if not folder.exists():
                folder.parent.mkdir(parents=True, exist_ok=True)
                with atomic_folder(folder) as made:
                    install(name, requirements, made)
        except subprocess.CalledProcessError as error:
            print(f"{name} is left out; pip says: {error.stderr.strip().splitlines()[-1]}")
            continue
        # Behind the running environment: what both hold is taken from there.
        sys.path.append(str(folder))
        found.append(name)
    return found


def install(name: str, requirements: Sequence[str], folder: Path) -> None:
    """Installs what is asked for, alone, into a folder."""
    if name != "learn2learn":
        _pip("install", "--target", str(folder), *requirements)
        return
    with tempfile.TemporaryDirectory() as temporary:
        _pip("download", "--no-binary", name, "--dest", temporary, *requirements)
        (archive,) = Path(temporary).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        (source,) = Path(temporary).glob(f"{name}-*/{name}")
        for file in _OF_LEARN2LEARN:
            target = folder / name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((source / file).read_bytes())
    for package in ("", "algorithms"):
        (folder / name / package / "__init__.py").touch()


def _pip(action: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", action, "--quiet", "--disable-pip-version-check", "--no-deps", *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)
