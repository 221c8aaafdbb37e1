"""The scenes that a service has adapted to: those used last, up to a number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from fastapi import Path

from hpo.service.front.answers import JsonAnswer
from hpo.service.limits import Limits
from hpo.service.refusals import Refusal
from hpo.service.tasks.bodies import SceneFacts
from storage.errors import quoted

T = TypeVar("T")
# Names that an error lists.
_SHOWN = 10
# Of what `Scenes.put` answers.
NEW: dict[int | str, dict[str, Any]] = {201: {"model": SceneFacts, "description": "There was no scene of that name."}}

SceneName = Annotated[
    str,
    Path(
        pattern="^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$",
        description="Any name: up to 128 letters, digits and . _ : @ -",
        examples=["dairy"],
    ),
]


class Kept(NamedTuple, Generic[T]):
    """A scene.

    Attributes:
        scene: What answers.
        size: How much memory it takes: its candidates, or labels.
        facts: What of it is listed.
    """

    scene: T
    size: int
    facts: dict[str, Any]


class Scenes(Generic[T]):
    """A bounded cache; several threads may use it.

    Args:
        limits: How many are kept, and how large they may be together.
        observe: Called with what happened: "adapted", "hit", "unknown", "evicted" or "removed".
    """

    def __init__(self, limits: Limits, observe: Callable[[str], None] = lambda event: None) -> None:
        self._kept: OrderedDict[str, Kept[T]] = OrderedDict()
        self._limits, self._observe, self._lock = limits, observe, Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, name: str, scene: T, size: int, facts: dict[str, Any]) -> JsonAnswer:
        """Keep a scene, in the place of one of the same name; return the answer, which says whether there was none."""
        with self._lock:
            new = name not in self._kept
            self._kept[name] = Kept(scene, size, facts)
            self._kept.move_to_end(name)
            before, size = len(self._kept), sum(kept.size for kept in self._kept.values())
            while len(self._kept) > self._limits.scenes or (size > self._limits.scene_items and len(self._kept) > 1):
                size -= self._kept.popitem(last=False)[1].size
            evicted = before - len(self._kept)
        self._observe("adapted")
        for _ in range(evicted):
            self._observe("evicted")
        return JsonAnswer({"name": name, **facts}, 201 if new else 200)

    def get(self, name: str) -> T:
        """Return a scene.

        Raises:
            Refusal: There is none of that name.
        """
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None:
                self._kept.move_to_end(name)
        if kept is None:
            self._observe("unknown")
            raise self._unknown(name)
        self._observe("hit")
        return kept.scene

    def remove(self, name: str) -> None:
        """Forget a scene.

        Raises:
            Refusal: There is none of that name.
        """
        with self._lock:
            known = self._kept.pop(name, None) is not None
        if not known:
            raise self._unknown(name)
        self._observe("removed")

    def listed(self) -> list[dict[str, Any]]:
        """Return the facts of all scenes, the one used last first."""
        with self._lock:
            return [{"name": name, **kept.facts} for name, kept in reversed(self._kept.items())]

    def _unknown(self, name: str) -> Refusal:
        names = [each["name"] for each in self.listed()]
        more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        there = f"there are {', '.join(names[:_SHOWN])}{more}" if names else "there are none yet"
        return Refusal(
            404,
            "unknown scene",
            f"there is no scene {quoted(name)}; {there}: adapt to it with PUT /scenes/{name}. The service keeps the "
            f"{self._limits.scenes:,} scenes used last (--scenes), with {self._limits.scene_items:,} candidates in all",
        )
