"""What a folder's sentence-transformers files say of pooling and of the text before every text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast, get_args

from storage.errors import InputError
from studies.config.definition import TeacherSection
from studies.model.pooling import Pooling

# Names of older files → of Pooling. The mean over the root of the length differs from the mean by length alone.
_OLDER = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_MODULES = {"Transformer", "Pooling", "Normalize"}


def pooling_and_prefix(teacher: TeacherSection, source: Path | str) -> tuple[Pooling, str]:
    """Return how an encoder pools, and what stands before every text: the study file's, else the encoder's own.

    Without sentence-transformers files that is the mean, and nothing.

    Args:
        teacher: The study file's section.
        source: Folder or hub id of the encoder.

    Raises:
        InputError: The files ask for something that is not read here.
    """
    modules = {str(each["type"]).rpartition(".")[2]: each for each in _read(source, "modules.json", [])}
    if other := [kind for kind in modules if kind not in _MODULES]:
        raise InputError(
            f"teacher.encoder = {teacher.encoder!r} has a sentence-transformers module {other[0]}, which is not read "
            "here; take an encoder of Transformer, Pooling and Normalize, or remove modules.json from a copy of its "
            "folder to use its states alone"
        )
    if _read(source, "sentence_bert_config.json", {}).get("do_lower_case"):
        raise InputError(
            f"teacher.encoder = {teacher.encoder!r} wants texts in lower case (do_lower_case in "
            "sentence_bert_config.json), which its tokenizer does not do; save it with a tokenizer that lowers them"
        )
    settings = _read(source, "config_sentence_transformers.json", {})
    prompts = settings.get("prompts") or {}
    prefix = teacher.prefix if teacher.prefix is not None else prompts.get(settings.get("default_prompt_name")) or ""
    pooled = _read(source, f"{modules['Pooling']['path']}/config.json", {}) if "Pooling" in modules else {}
    if prefix and pooled.get("include_prompt") is False:
        raise InputError(
            f"teacher.encoder = {teacher.encoder!r} leaves its prefix {prefix!r} out of pooling (include_prompt), "
            'which is not done here; set teacher.prefix = "" to use it without'
        )
    return teacher.pooling or _pooling(teacher, pooled), prefix


def _pooling(teacher: TeacherSection, pooled: dict[str, Any]) -> Pooling:
    named = pooled.get("pooling_mode") or [name for key, name in _OLDER.items() if pooled.get(key)] or ["mean"]
    names = [named] if isinstance(named, str) else named
    found = ["mean" if name == "mean_sqrt_len_tokens" else name for name in names]
    if len(found) > 1 or found[0] not in get_args(Pooling):
        raise InputError(
            f"teacher.encoder = {teacher.encoder!r} pools by {' and '.join(found)}; accepted is one of "
            f"{', '.join(get_args(Pooling))}: set teacher.pooling to use it all the same"
        )
    return cast(Pooling, found[0])


def _read(source: Path | str, name: str, absent: Any) -> Any:
    """Return a JSON file of a folder, or of a hub's snapshot."""
    # transformers takes seconds to import.
    from transformers.utils.hub import cached_file

    path = cached_file(
        str(source),
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return absent if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
