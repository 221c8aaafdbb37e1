"""Looks up the interactions of a data set by scene and by user: windows and histories."""

from __future__ import annotations

import numpy as np

from studies.data.dataset import Dataset, Ints
from studies.episodes.split import Split


class InteractionIndex:
    """Rows of a data set by scene and by user, with the rules on which of them an episode may see.

    Args:
        data: The shop.
        split: Split of its scenes.
    """

    def __init__(self, data: Dataset, split: Split) -> None:
        self._data = data
        # Rows by scene and by user, each in order of time (the sort is stable): two index lists with their starts.
        self._by_scene = np.argsort(data.scene, kind="stable")
        self._scene_start = np.searchsorted(data.scene[self._by_scene], np.arange(len(data.scenes) + 1))
        self._by_user = np.argsort(data.user, kind="stable")
        self._user_start = np.searchsorted(data.user[self._by_user], np.arange(data.users + 1))
        self._held_out = np.isin(np.arange(len(data.scenes)), split.held_out)

    def window(self, scene: int, start: int, end: int) -> Ints:
        """Return the rows of a scene with start ≤ time < end (UTC seconds), in order of time."""
        rows, times = self._rows_of_scene(scene), self._data.time
        return rows[np.searchsorted(times[rows], start) : np.searchsorted(times[rows], end)]

    def support_and_later(
        self, scene: int, start: int, end: int, count: int, users: int = 1
    ) -> tuple[Ints, Ints] | None:
        """Return the rows of a window, and those later than its `count`-th; None where there are too few of these.

        Args:
            scene: Scene code.
            start: Of the window, UTC seconds.
            end: Of the window, UTC seconds.
            count: Number of interactions that the queries come after.
            users: Fewest users of the later rows.
        """
        times, window = self._data.time, self.window(scene, start, end)
        if len(window) <= count:
            return None
        later = window[np.searchsorted(times[window], times[window[count - 1]], side="right") :]
        return (window, later) if len(later) and len(np.unique(self._data.user[later])) >= users else None

    def life(self, scene: int) -> tuple[int, int]:
        """Return the times of a scene's first and last interaction, UTC seconds; the log's end if it has none."""
        rows = self._rows_of_scene(scene)
        ends = rows[[0, -1]] if len(rows) else np.array([-1, -1])
        first, last = self._data.time[ends]
        return int(first), int(last)

    def history(self, user: int, before: int, scene: int, opened: int) -> Ints:
        """Return the items that a user took before a time and that an episode may see, oldest first.

        Interactions in held-out scenes are left out, since they lie in the future of other episodes. Those in the
        episode's own scene count from its opening on: before it the scene did not exist.

        Args:
            user: User code.
            before: UTC seconds.
            scene: Scene code of the episode.
            opened: Time of its opening, UTC seconds.
        """
        data = self._data
        rows = self._by_user[self._user_start[user] : self._user_start[user + 1]]
        rows = rows[: np.searchsorted(data.time[rows], before)]
        own = data.scene[rows] == scene
        return data.item[rows[np.where(own, data.time[rows] >= opened, ~self._held_out[data.scene[rows]])]]

    def _rows_of_scene(self, scene: int) -> Ints:
        return self._by_scene[self._scene_start[scene] : self._scene_start[scene + 1]]
