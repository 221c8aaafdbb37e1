"""Reads tensors of a file that may come from anyone: known names and shapes, one kind of number, finite values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from storage.errors import InputError

# What weights may be stored as.
_WEIGHTS = ("F32", "F16", "BF16")


def read_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int | None, ...]],
    dtype: torch.dtype | Mapping[str, torch.dtype] = torch.float32,
) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; names and shapes are checked before a value is read.

    Args:
        path: The file.
        shapes: The shape of each tensor that the file must hold; None where a size may be any.
        dtype: Of the returned tensors, of all or by name: fp32 for weights stored in any precision, or int64.

    Raises:
        InputError: The file cannot be read, has other tensors, or a weight is not a finite number.
    """
    dtypes = dict.fromkeys(shapes, dtype) if isinstance(dtype, torch.dtype) else dtype
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            if other := sorted(found.keys() ^ shapes.keys()):
                problem = "lacks" if other[0] in shapes else "holds an unknown"
                raise InputError(f"{path} {problem} {other[0]!r}: export the study again")
            for name, shape in shapes.items():
                stored_as = _WEIGHTS if dtypes[name] == torch.float32 else ("I64",)
                _check_layout(path, name, found[name].get_dtype(), found[name].get_shape(), shape, stored_as)
            # A copy: the file's own pages would change with it, or end the process where it is cut.
            tensors = {name: file.get_tensor(name).to(dtypes[name], copy=True) for name in shapes}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({error}): export the study again") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{path}: {name} holds values that are not finite numbers; export the study again")
    return tensors


def _check_layout(
    path: Path, name: str, dtype: str, found: list[int], shape: tuple[int | None, ...], accepted: tuple[str, ...]
) -> None:
    fits = len(found) == len(shape) and all(n in (None, size) for size, n in zip(found, shape, strict=True))
    if dtype not in accepted or not fits:
        wanted = " × ".join("any" if size is None else str(size) for size in shape)
        raise InputError(
            f"{path}: {name} is {dtype} of {' × '.join(map(str, found))}, accepted is {' or '.join(accepted)} of "
            f"{wanted}; export the study again"
        )
