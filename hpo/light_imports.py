"""Imports optuna-dashboard and Optuna's importance without scikit-learn, which takes longer than all the rest."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without_scikit_learn() -> Iterator[None]:
    """Hide scikit-learn from the imports in the block.

    Optuna imports it for measures of importance that are not used here, and works without it.
    """
    hidden = "sklearn" not in sys.modules
    if hidden:
        sys.modules["sklearn"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["sklearn"]
