"""Runs a script in a fresh process on the draft of an export, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from storage.errors import ScenetuneError

# Our modules are found where this process found them.
_ROOT = Path(__file__).parents[2]


def run_script(script: Path, draft: Path, request: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that `python SCRIPT EXPORT REQUEST.json OUT` writes.

    Args:
        script: The script.
        draft: The export.
        request: What it is asked, as JSON.

    Raises:
        ScenetuneError: It failed: it could not open the draft.
    """
    # No network, and no GPU: another process may fill it.
    paths = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    with TemporaryDirectory() as scratch:
        asked, out = Path(scratch, "request.json"), Path(scratch, "out.safetensors")
        asked.write_text(json.dumps(request), encoding="utf-8")
        # -P: the script's own folder must not shadow installed modules.
        command = [sys.executable, "-P", str(script), str(draft), str(asked), str(out)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise ScenetuneError(
                f"a fresh process could not open the exported model ({lines[-1]}); nothing was exported: check the "
                "versions of torch, transformers and onnxruntime"
            )
        return load_file(out)
