"""A study of planted labelled texts (`tests/labelled.py`) that runs in seconds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studies.config.spec import StudySpec, parse_spec


def tiny_labelled_spec(encoder: Path, **overrides: Mapping[str, Any]) -> StudySpec:
    """A study of `planted_texts`.

    Args:
        encoder: folder of the encoder, such as `tiny_encoder` makes.
        overrides: keys of sections, by the section's name.
    """
    protocol = {"ways": 3, "shots": 2, "report_shots": [1, 2], "queries": 3, "episodes": 4, "train_episodes": 4}
    raw: dict[str, Any] = {
        "name": "tiny-labels",
        "task": "classification",
        "data": {"source": "completejourney"},
        "protocol": {**protocol, "split": [0.5, 0.25, 0.25]},
        "teacher": {"encoder": str(encoder), "max_tokens": 16},
        "search": {"trials": 3, "space": {"trainable_layers": 0}},
        "pruner": {"rungs": [2, 4]},
        "distill": {"trials": 1, "embed_steps": 4, "rank_steps": 4},
    }
    for section, values in overrides.items():
        raw[section] = {**raw[section], **values}
    return parse_spec(raw)
