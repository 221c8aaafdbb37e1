"""A ranking study without its data: items for the users of a new scene, the task of a study file that names none."""

from __future__ import annotations

from typing import Literal

from studies.config.definition import StudyDefinition
from studies.config.protocol_section import RankingProtocol


class RankingDefinition(StudyDefinition):
    """A ranking study without its data."""

    task: Literal["ranking"] = "ranking"
    protocol: RankingProtocol = RankingProtocol()
