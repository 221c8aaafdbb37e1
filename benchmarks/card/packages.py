"""The packages that a machine with a GPU may lack, in one folder for its `PYTHONPATH`.

Such a machine has torch, transformers, numpy, scipy, scikit-learn and safetensors; these few are small.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from peers.environment import PACKAGES as PEERS
from peers.environment import install

from storage.files.atomic import atomic_folder

PACKAGES = ("pydantic", "mmh3")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def carry(folder: Path, python: str) -> None:
    """Download the packages for a version of Python on Linux, and the peer that is compared with, learn2learn.

    Args:
        folder: Written again where it exists.
        python: Such as "3.12".
    """
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    wanted = ["--only-binary", ":all:", "--python-version", python, *platforms, *PACKAGES]
    with atomic_folder(folder, replace=True) as draft:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        subprocess.run([*command, "--target", str(draft), *wanted], check=True)
        install("learn2learn", PEERS["learn2learn"], draft)
