"""A ranking study without its data: items for the users of a new scene, the task of a study file that names none."""

from __future__ import annotations

from typing import Literal

from studies.adaptation.section import RankingAdapt
from studies.config.definition import StudyDefinition, TeacherSection
from studies.config.protocol_section import RankingProtocol


class RankingTeacher(TeacherSection):
    """The pretrained encoder of the teachers."""

    adapt: RankingAdapt | None = None


class RankingDefinition(StudyDefinition):
    """A ranking study without its data."""

    task: Literal["ranking"] = "ranking"
    protocol: RankingProtocol = RankingProtocol()
    teacher: RankingTeacher = RankingTeacher()
