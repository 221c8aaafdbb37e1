"""An export through the command line: every format, every refusal, and opened where nothing of ours is imported."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill.inference import StudentRecommender
from hpo.registry import register
from storage.database.postgres import connect
from studies.config.spec import load_spec
from tests.forked import worker
from tests.mini import call, mini

TEXTS = ["milk", "WHOLE MILK 1 L", "crème brûlée 北京", "dark chocolate with hazelnuts " * 60, "corn flakes", "x"]
# What a stranger writes who has read the model card, for several sizes of a batch.
STRANGER = """
import json, sys
import numpy, torch, onnxruntime
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

folder, texts, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
batches = [texts[:1], texts[1:3], texts[3:]]
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
session = onnxruntime.InferenceSession(folder + "/onnx/model.onnx", providers=["CPUExecutionProvider"])
def cut(batch, kind):
    return dict(tokenizer(batch, padding=True, truncation=True, return_tensors=kind))
found = {
    "last_hidden_state": torch.cat([model(**cut(b, "pt")).last_hidden_state[:, 0] for b in batches]),
    "onnx_hidden_state": torch.cat(
        [torch.from_numpy(session.run(["last_hidden_state"], cut(b, "np"))[0][:, 0]) for b in batches]
    ),
    "onnx": torch.cat([torch.from_numpy(session.run(["sentence_embedding"], cut(b, "np"))[0]) for b in batches]),
    "sentence-transformers": torch.cat(
        [SentenceTransformer(folder, device="cpu").encode(b, convert_to_tensor=True) for b in batches]
    ),
}
assert not {"distill", "studies", "hpo", "storage"} & set(sys.modules)
save_file({name: each.detach().clone().contiguous() for name, each in found.items()}, out)
"""


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def strangers(folder: Path, scratch: Path) -> dict[str, torch.Tensor]:
    """What another interpreter gets, elsewhere and isolated from this project's environment."""
    elsewhere = scratch / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-I", "-c", STRANGER, folder, json.dumps(TEXTS), elsewhere / "out"]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return load_file(elsewhere / "out")


@pytest.mark.slow
@pytest.mark.usefixtures("shared_caches")
def test_a_study_exports_every_format_and_strangers_open_it(database_url: str, tmp_path: Path) -> None:
    """What the study measured is what a user must get, by whatever tool the folder is opened."""
    study = mini(tmp_path, trials=2, extra='width = 16\n[export]\nformats = ["onnx"]\n')
    with worker("mini", HPO_DATABASE_URL=database_url):
        done = call("run", study, "--engine", "external", "--json", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    folder = Path(result["export"])

    # The study file's formats, checked and recorded, with all that the student comes from.
    found = manifest(folder)
    assert list(found["formats"]) == ["hf", "onnx"]
    assert all(each["cosine"] >= 0.9999 and each["agreement"] == 1 for each in found["formats"].values())
    assert found["formats"]["hf"]["served_agreement"] == 1
    assert found["lineage"]["trial"] == result["evaluation"]["student_trial"]
    assert found["lineage"]["teachers"][0] == result["evaluation"]["teachers"][0]
    assert found["vocabulary"]["kept"] < found["vocabulary"]["of"]
    assert {"scenetune", "torch", "transformers", "onnx", "onnxruntime"} <= set(found["versions"])

    ours = StudentRecommender.load(folder).embed(TEXTS).cpu()
    theirs = strangers(folder, tmp_path)
    for name in ("onnx", "sentence-transformers"):
        assert float(torch.cosine_similarity(theirs[name], ours, dim=1).min()) >= 0.9999
    torch.testing.assert_close(theirs["onnx_hidden_state"], theirs["last_hidden_state"], atol=1e-4, rtol=0)

    # The graph's own figures are the study's.
    checked = call("evaluate", folder, "--format", "onnx", "--json", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    figures = json.loads(checked.stdout)
    assert figures["recall"]["mean"] == pytest.approx(figures["recorded"]["mean"], abs=1e-6)
    assert "has no format onnx-int8" in call("evaluate", folder, "--format", "onnx-int8", cwd=tmp_path).stderr

    # Another precision in the same place: only on request. Then hpo run does not take the folder for its own.
    before = (folder / "manifest.json").read_bytes()
    again = ("export", "mini", "--out", folder, "--format", "hf", "--precision", "bf16")
    refused = call(*again, HPO_DATABASE_URL=database_url)
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert (folder / "manifest.json").read_bytes() == before
    forced = call(*again, "--force", HPO_DATABASE_URL=database_url)
    assert forced.returncode == 0, forced.stderr
    assert forced.stdout.strip() == str(folder)
    assert (list(manifest(folder)["formats"]), manifest(folder)["precision"]) == (["hf"], "bf16")
    assert StudentRecommender.load(folder).embed(TEXTS).dtype == torch.float32
    rerun = call("run", study, cwd=tmp_path, HPO_DATABASE_URL=database_url)
    assert rerun.returncode == 2
    assert "as hf, onnx in fp32" in rerun.stderr

    # 8-bit weights: with what they cost, or not at all.
    small = tmp_path / "int8"
    done = call("export", "mini", "--out", small, "--format", "onnx-int8", HPO_DATABASE_URL=database_url)
    if done.returncode == 0:
        measured = manifest(small)["formats"]["onnx-int8"]
        assert measured["recall"] >= 0.99 * measured["recall_fp32"]
    else:
        assert "leave onnx-int8 out" in done.stderr
        assert not small.exists()
    assert not list(tmp_path.rglob(".*.new"))


def test_mistakes_in_an_export_are_named(database_url: str, tmp_path: Path) -> None:
    """Each is found before the data are read, and leaves nothing behind."""
    opened = connect(database_url)
    register(opened, load_spec(mini(tmp_path)), "fingerprint")
    opened.engine.dispose()
    out = tmp_path / "out"
    for flags, message in (
        (("--format", "hf,tflite"), "got 'tflite'"),
        (("--precision", "int4"), "got 'int4'"),
        ((), "study 'mini' has no student yet"),
    ):
        done = call("export", "mini", "--out", out, *flags, HPO_DATABASE_URL=database_url)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert not out.exists()
    done = call("evaluate", out, "--format", "tflite")
    assert done.returncode == 2
    assert "one of hf, onnx, onnx-int8" in done.stderr
