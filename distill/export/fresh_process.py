"""Runs scripts in a fresh process on the draft of an export, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from storage.errors import ScenetuneError

# Our modules are found where this process found them.
_ROOT = Path(__file__).parents[2]
# One process for all scripts: each would import torch and transformers again, for longer than it works.
_RUN = """
import runpy, sys
draft, *rest = sys.argv[1:]
for script, request, out in zip(rest[::3], rest[1::3], rest[2::3]):
    sys.argv = [script, draft, request, out]
    runpy.run_path(script, run_name="__main__")
"""


class Asked(NamedTuple):
    """What a script is asked.

    Attributes:
        script: The script.
        request: The request, as JSON.
    """

    script: Path
    request: Mapping[str, Any]


def run_scripts(draft: Path, asked: Sequence[Asked]) -> list[dict[str, Tensor]]:
    """Return the tensors that `python SCRIPT EXPORT REQUEST.json OUT` writes, for each script in one fresh process.

    Args:
        draft: The export.
        asked: The scripts, in the order in which they run.

    Raises:
        ScenetuneError: One of them failed: it could not open the draft.
    """
    # No network, and no GPU: another process may fill it.
    paths = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    with TemporaryDirectory() as scratch:
        # -P: no folder of a user's shadows installed modules.
        command = [sys.executable, "-P", "-c", _RUN, str(draft)]
        outs = []
        for number, (script, wanted) in enumerate(asked):
            request, out = Path(scratch, f"request-{number}.json"), Path(scratch, f"out-{number}.safetensors")
            request.write_text(json.dumps(wanted), encoding="utf-8")
            command += map(str, (script, request, out))
            outs.append(out)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise ScenetuneError(
                f"a fresh process could not open the exported model ({lines[-1]}); nothing was exported: check the "
                "versions of torch, transformers and onnxruntime"
            )
        return [load_file(out) for out in outs]
