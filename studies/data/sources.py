"""The registry of data sources: the values that `data.source` of a study file takes."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from studies.data.completejourney import CompleteJourney
from studies.data.files.source import Files
from studies.data.source import InteractionSource

# Add a class here. The schema of `[data]` and the names in error messages are built from it.
AnySource = CompleteJourney | Files
DataSection = Annotated[AnySource, Field(discriminator="source")]
SOURCES: dict[str, type[InteractionSource]] = {
    get_args(kind.model_fields["source"].annotation)[0]: kind for kind in get_args(AnySource)
}
