"""The registry of data sources: the values that `data.source` of a study file takes.

A new source is one module with a subclass of `Source`, added to both names below.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from studies.data.completejourney import CompleteJourney
from studies.data.files.source import Files
from studies.data.source import Source

DataSection = Annotated[CompleteJourney | Files, Field(discriminator="source")]
SOURCES: dict[str, type[Source]] = {"completejourney": CompleteJourney, "files": Files}
