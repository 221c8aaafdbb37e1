"""The registry of labelled sources: the values that `data.source` of a classification study takes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from studies.classification.data.completejourney import LabelledCompleteJourney
from studies.classification.data.files import LabelledFiles

# Add a class here. The schema of `[data]` and the names in error messages are built from it.
LabelledSection = Annotated[LabelledCompleteJourney | LabelledFiles, Field(discriminator="source")]


def names_scenes(section: Any) -> bool:
    """Return whether `[data]`, as the study file has it, gives rows a scene."""
    if not isinstance(section, dict):
        return False
    return section.get("scene") is not None or section.get("log") == "coupons"
