"""The records of benchmarks/classification.py: pairs are of the same episodes, and a run that was cut off continues."""

from pathlib import Path

import pytest
import torch
from classifiers.comparison import compared
from classifiers.few_shot import Predict, choose, record
from classifiers.journal import Journal

from studies.classification.episode import LabelledEpisode

NAMES = [f"episode {number}" for number in range(4)]


def episode(name: str) -> LabelledEpisode:
    """Two classes with two queries each."""
    both, none = torch.arange(2), torch.empty(0, dtype=torch.int64)
    queries = torch.tensor([0, 0, 1, 1])
    return LabelledEpisode(name, both, torch.arange(4), both, both, torch.arange(4), queries, none)


class Fixed:
    """Gives the first answers of each episode right, and counts the episodes."""

    def __init__(self, right: dict[str, int]) -> None:
        self._right, self.adapted = right, list[str]()

    def adapt(self, episode: LabelledEpisode) -> Predict:
        """Know the queries' classes."""
        self.adapted.append(episode.name)
        found = torch.where(torch.arange(4) < self._right[episode.name], episode.query_labels, 1 - episode.query_labels)
        return lambda: found


def put(journal: Journal, system: str, recalls: dict[str, float], part: str = "test") -> None:
    for name, recall in recalls.items():
        journal.add((part, 1, system, name), {"recall": recall, "seconds": 1.0, "cpu_seconds": 2.0 * (1 + recall)})


def test_a_pair_is_compared_over_the_episodes_that_both_are_recorded_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "records.jsonl")
    put(journal, "ours", {"episode 0": 0.5, "episode 1": 0.7, "episode 3": 0.9})
    put(journal, "peer", {"episode 3": 0.4, "episode 1": 0.6, "episode 2": 0.0})  # in another order
    put(journal, "peer + names", dict.fromkeys(NAMES, 1.0))
    put(journal, "peer", dict.fromkeys(NAMES, 0.0), part="validation")
    found = compared(journal, {"ours": ["peer"]})
    assert [(row["unit"], row["peer"], row["episodes"]) for row in found] == [
        ("macro recall", "peer", 2),
        ("CPU s", "peer", 2),
        ("s", "peer", 2),
    ]
    assert (found[0]["ours"], found[0]["peer_value"]) == (pytest.approx(0.8), pytest.approx(0.5))
    assert found[0]["difference"] == pytest.approx([0.3, 0.1, 0.5])  # each resample is of 0.1 and 0.5
    assert found[1]["ratio"] == pytest.approx(3.0 / 3.6)  # the peer's seconds over ours
    assert {row["peer"] for row in compared(journal, {"ours": None})} == {"peer", "peer + names"}


def test_what_is_recorded_is_not_measured_again_even_after_a_line_was_cut_off(tmp_path: Path) -> None:
    path, episodes = tmp_path / "records.jsonl", [episode(name) for name in NAMES]
    right = dict(zip(NAMES, (4, 3, 2, 0), strict=True))
    record(Journal(path), "test", 1, {"ours": Fixed(right)}, episodes[:3])
    whole = path.read_text()
    path.write_text(whole[:-20])
    again = Fixed(right)
    record(Journal(path), "test", 1, {"ours": again}, episodes)
    assert again.adapted == ["episode 2", "episode 3"]
    kept = Journal(path)
    recalls = [kept.get(("test", 1, "ours", name))["recall"] for name in NAMES]  # type: ignore[index]
    assert recalls == [1.0, 0.75, 0.5, 0.0]


def test_the_choice_is_the_best_over_all_validation_episodes_of_those_that_went_on(tmp_path: Path) -> None:
    journal, episodes = Journal(tmp_path / "records.jsonl"), [episode(name) for name in NAMES]
    systems = {
        "early": Fixed(dict(zip(NAMES, (4, 4, 0, 0), strict=True))),
        "steady": Fixed(dict(zip(NAMES, (3, 3, 3, 3), strict=True))),
        "late": Fixed(dict(zip(NAMES, (0, 0, 4, 4), strict=True))),
    }
    assert choose(journal, 1, systems, episodes, kept=2) == "steady"
    assert systems["late"].adapted == NAMES[:2]
    assert choose(Journal(tmp_path / "records.jsonl"), 1, systems, episodes, kept=2) == "steady"
    assert systems["early"].adapted == NAMES
