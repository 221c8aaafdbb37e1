"""The study file of ranking."""

from __future__ import annotations

from pydantic import model_validator

from studies.config.ranking import RankingDefinition
from studies.config.spec import StudySpec
from studies.data.sources import DataSection


class RankingSpec(RankingDefinition, StudySpec):
    """A validated study file of ranking."""

    data: DataSection

    @model_validator(mode="after")
    def _data_fits(self) -> RankingSpec:
        data, protocol = self.data, self.protocol
        if protocol.candidates == "scene":
            if data.scene_is_user:
                raise ValueError(
                    "each user is a scene, whose own items as candidates would give the answers away; "
                    'set protocol.candidates = "all"'
                )
            if data.min_items is not None and data.min_items <= protocol.k:
                raise ValueError(
                    f"data.min_items = {data.min_items} keeps scenes in which every item is among the first "
                    f"protocol.k = {protocol.k}, so that recall@{protocol.k} is always 1; raise min_items above "
                    f"{protocol.k} or lower k"
                )
        if data.scene_is_user and (data.min_users or 1) > 1:
            raise ValueError(
                f"each user is a scene, which has one user, not data.min_users = {data.min_users}; set min_users = 1"
            )
        return self
