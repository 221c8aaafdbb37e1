"""One file with all that a run on another machine needs: encoder, tokenizer, a cut of the data, the study file.

`write` runs where the packages of data and encoder are installed; `read` needs neither them nor a database.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save, save_file

from studies.config.ranking import RankingDefinition
from studies.data.dataset import Dataset
from studies.learners.registry import RANKING_LEARNERS
from studies.model.encoder import locate
from studies.model.pretrained.reading import quiet_transformers
from studies.training.problem import Problem
from studies.training.ranking import build_problem

MAX_BYTES = 50_000_000
STUDY = Path(__file__).parents[2] / "studies" / "quickstart.toml"
SCENES, QUICK_SCENES = 48, 16
# The encoder of a rehearsal: random, and of the smallest shape in which everything still happens.
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
QUICK: dict[str, dict[str, Any]] = {
    "protocol": {"queries": 4, "train_queries": 4, "openings": 5, "train_openings": 2, "report_shots": [2]},
    "pruner": {"rungs": [1, 2]},
    "distill": {"embed_steps": 2, "rank_steps": 1},
}
_ENCODER, _DATA, _STUDY = "encoder/", "data.npz", "study.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_CODES = ("products", "catalogue", "catalogue_start", "user", "item", "scene", "time")
_TEXTS = ("scenes", "texts", "item_ids", "user_ids", "notes")


def write(path: Path, *, quick: bool = False) -> int:
    """Write a pack and return its size in bytes.

    Args:
        path: The file.
        quick: Take a tiny random BERT and few scenes: for a rehearsal of seconds.

    Raises:
        ValueError: It is larger than `MAX_BYTES`.
    """
    # What only the machine that packs has.
    from storage.home import cache_folder
    from studies.config.spec import load_spec
    from studies.data.loading import load_data

    spec = load_spec(STUDY)
    section = spec.data.model_copy(update={"max_scenes": QUICK_SCENES if quick else SCENES})
    study = spec.model_dump(mode="json", exclude={"data"})
    study["search"]["space"] |= {"learner": list(RANKING_LEARNERS), "trainable_layers": [0, 1 if quick else 2]}
    for name, values in QUICK.items() if quick else ():
        study[name] |= values
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        folder, _ = locate(spec.teacher)
        _write_encoder(archive, Path(folder), quick)
        archive.writestr(_DATA, _packed(load_data(section, spec.protocol, cache_folder())))
        archive.writestr(_STUDY, json.dumps(study))
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path} has {size:,} bytes, more than {MAX_BYTES:,}: pack fewer scenes")
    return size


def read(path: Path, folder: Path) -> Problem:
    """Unpack into a folder and return the problem that the study's trials share.

    Args:
        path: A pack.
        folder: For the encoder and the caches.
    """
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    weights = folder / _ENCODER / "model.safetensors"
    # Packed in half the bytes; everything starts from weights in fp32.
    save_file({name: tensor.float() for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    study = json.loads((folder / _STUDY).read_text(encoding="utf-8"))
    study["teacher"] |= {"encoder": str(folder / _ENCODER), "sha256": None}
    return build_problem(RankingDefinition.model_validate(study), _unpacked(folder / _DATA), folder / "cache")


def _write_encoder(archive: zipfile.ZipFile, folder: Path, quick: bool) -> None:
    from transformers import BertConfig, BertModel

    quiet_transformers()
    if quick:
        torch.manual_seed(0)
        model = BertModel(BertConfig.from_pretrained(folder, **TINY), add_pooling_layer=False)
    else:
        model = BertModel.from_pretrained(folder, add_pooling_layer=False)
    halves = {name: p.detach().to(torch.bfloat16).contiguous() for name, p in model.named_parameters()}
    archive.writestr(f"{_ENCODER}model.safetensors", save(halves, {"format": "pt"}))
    archive.writestr(f"{_ENCODER}config.json", model.config.to_json_string())
    for name in _TOKENIZER:
        if (folder / name).is_file():
            archive.write(folder / name, f"{_ENCODER}{name}")


def _packed(data: Dataset) -> bytes:
    buffer = io.BytesIO()
    codes = {name: getattr(data, name) for name in _CODES}
    texts = {name: np.array(json.dumps(getattr(data, name))) for name in _TEXTS}
    np.savez(buffer, **codes, **texts, rows_read=np.array(data.rows_read))
    return buffer.getvalue()


def _unpacked(path: Path) -> Dataset:
    with np.load(path) as stored:
        codes = {name: stored[name] for name in _CODES}
        texts = {name: tuple(json.loads(str(stored[name]))) for name in _TEXTS}
        return Dataset(**codes, **texts, rows_read=int(stored["rows_read"]), dropped={}).sealed()
