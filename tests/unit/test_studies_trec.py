"""The dump is for those who do not believe our figures: what it says must be exactly what was measured."""

import math
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ir_measures
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, P, R, Success, nDCG
from torch import Tensor

from storage.errors import InputError
from studies.episodes.episode import Episode
from studies.evaluation import trec
from studies.evaluation.evaluate import evaluate
from studies.evaluation.metrics import rank
from tests.unit.test_studies_evaluation import Fixed
from tests.unit.test_studies_metrics import make_episode, rankings

SCENES = ("brot & käse", "a:1 b", "50 %\toff")
DATA: Any = SimpleNamespace(
    scenes=SCENES,
    texts=[f"text of\t{item}\nin two lines" for item in range(200)],
    item_ids=[f"sku {item}" for item in range(200)],
)


def shop(drawn: list[tuple[Tensor, Episode, int]]) -> tuple[list[Episode], Fixed]:
    """One opening after another, in all the scenes by turns, with users and items of some other numbers."""
    episodes = [
        replace(
            episode,
            scene=number % len(SCENES),
            opened=number,
            users=episode.users * 7 + number,
            items=episode.items - 10 * number,
        )
        for number, (_, episode, _) in enumerate(drawn)
    ]
    return episodes, Fixed({number: scores for number, (scores, _, _) in enumerate(drawn)})


def averaged(values: dict[str, float]) -> list[float]:
    """Per-query figures averaged over queries, then episodes, for each scene in order of its name."""
    episodes: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    scenes: defaultdict[str, list[float]] = defaultdict(list)
    for query, value in values.items():
        scene, opened, _ = query.split(":")
        episodes[scene, opened].append(value)
    for (scene, _), figures in episodes.items():
        scenes[scene].append(sum(figures) / len(figures))
    names = {trec.queries(make_episode(torch.ones(1, 1)), [name])[0].split(":")[0]: name for name in SCENES}
    return [sum(scenes[s]) / len(scenes[s]) for s in sorted(scenes, key=names.__getitem__)]


@settings(max_examples=60, deadline=None)
@given(st.lists(rankings(), min_size=1, max_size=7), st.integers(1, 15))
def test_ir_measures_reads_the_dump_and_finds_the_same_figures(
    drawn: list[tuple[Tensor, Episode, int]], k: int
) -> None:
    """Figures that cannot be had from the published files are not the figures of the published files."""
    episodes, system = shop(drawn)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home, "trec")
        with trec.dump(folder, DATA, episodes) as writer:
            ours = evaluate(system, episodes, SCENES, k, dump=writer.run("student"))
        qrels = list(ir_measures.read_trec_qrels(str(folder / "qrels.txt")))
        run = list(ir_measures.read_trec_run(str(folder / "student.run")))
    known = {
        (query, trec.docnos(episode)[place])
        for episode in episodes
        for query in trec.queries(episode, SCENES)
        for place in episode.support.tolist()
    }
    new = [line for line in qrels if (line.query_id, line.doc_id) not in known]
    names = {"recall": R @ k, "ndcg": nDCG @ k, "mrr": RR, "hit_rate": Success @ k, "precision": P @ k}
    judged = {name: (measure, qrels) for name, measure in names.items()}
    judged |= {"accuracy": (P @ 1, qrels), "new_item_recall": (R @ k, new)}
    for name, (measure, judgements) in judged.items():
        theirs = {value.query_id: value.value for value in ir_measures.iter_calc([measure], judgements, run)}
        expected = [value for value in ours.values(name).tolist() if not math.isnan(value)]
        assert averaged(theirs) == pytest.approx(expected, abs=1e-9), name


@settings(max_examples=40, deadline=None)
@given(st.lists(rankings(), min_size=1, max_size=4))
def test_a_run_lists_every_candidate_that_is_ranked_once_and_in_order(
    drawn: list[tuple[Tensor, Episode, int]],
) -> None:
    """Scores that tie, or that contradict the ranks, leave the order to whatever evaluator reads them."""
    episodes, system = shop(drawn)
    with tempfile.TemporaryDirectory() as home:
        with trec.dump(Path(home, "trec"), DATA, episodes) as writer:
            evaluate(system, episodes, SCENES, 1, dump=writer.run("student"))
        lines = [line.split(" ") for line in Path(home, "trec", "student.run").read_text("ascii").splitlines()]
        judged = [line.split(" ") for line in Path(home, "trec", "qrels.txt").read_text("ascii").splitlines()]
    found: defaultdict[str, list[list[str]]] = defaultdict(list)
    for query, _, *rest in lines:
        found[query].append(rest)
    expected: dict[str, list[list[str]]] = {}
    relevant = []
    for episode in episodes:
        order, documents = rank(system.scores(episode), episode), trec.docnos(episode)
        for number, query in enumerate(trec.queries(episode, SCENES)):
            row = [place for place in order[number].tolist() if not episode.excluded[number, place]]
            expected[query] = [
                [documents[place], str(position), str(episode.candidates - position + 1), "student"]
                for position, place in enumerate(row, start=1)
            ]
            relevant += [
                [query, "0", d, "1"] for d, yes in zip(documents, episode.relevant[number], strict=True) if yes
            ]
    assert found == expected
    assert judged == relevant


def test_names_of_scenes_and_texts_of_items_cannot_break_a_line(tmp_path: Path) -> None:
    """A tab in a name gives a file that no evaluator reads, or worse, one that it does."""
    episode = make_episode(torch.ones(2, 2, dtype=torch.bool), scene=2, opened=1_700_000_000)
    with trec.dump(tmp_path / "trec", DATA, [episode]):
        pass
    assert (tmp_path / "trec/items.tsv").read_text("utf-8") == (
        "i100\tsku 100\ttext of 100 in two lines\ni101\tsku 101\ttext of 101 in two lines\n"
    )
    assert trec.queries(episode, SCENES) == ["50%20%25%09off:1700000000:0", "50%20%25%09off:1700000000:1"]
    assert trec.queries(replace(episode, scene=1), SCENES)[0] == "a%3A1%20b:1700000000:0"


def nothing() -> tuple[Episode, Tensor]:
    """An episode of one candidate, and its ranking."""
    return make_episode(torch.ones(1, 1, dtype=torch.bool)), torch.zeros(1, 1, dtype=torch.int64)


def test_systems_get_files_of_their_own(tmp_path: Path) -> None:
    """Two systems in one file are neither."""
    episode, order = nothing()
    with trec.dump(tmp_path / "trec", DATA, [episode]) as writer:
        for name in ("teacher 4 (fomaml)", "../TF-IDF neighbours"):
            writer.run(name)(episode, order)
        for name in ("teacher_4 fomaml", "Teacher 4 [fomaml]"):
            with pytest.raises(InputError, match=r"'[Tt]eacher_4_fomaml\.run', as another one is"):
                writer.run(name)
        for name in ("", "..", "学生"):
            with pytest.raises(InputError, match="letters or digits"):
                writer.run(name)
    names = {path.name for path in (tmp_path / "trec").iterdir()}
    assert names == {"TF-IDF_neighbours.run", "items.tsv", "qrels.txt", "teacher_4_fomaml.run"}
    expected = "brot%20%26%20k%C3%A4se:0:0 Q0 i100 1 1 teacher_4_fomaml\n"
    assert (tmp_path / "trec/teacher_4_fomaml.run").read_text() == expected


def test_a_dump_is_whole_or_absent(tmp_path: Path) -> None:
    """Half a run scores half of the queries as zero, and nothing in it says so."""
    episode, order = nothing()
    with pytest.raises(ValueError, match="'student' lacks 1 of"), trec.dump(tmp_path / "trec", DATA, [episode]) as one:
        one.run("student")

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), trec.dump(tmp_path / "trec", DATA, [episode]) as one:
        evaluate(Fixed({0: torch.zeros(1, 1)}), [episode], SCENES, 1, interrupt, one.run("student"))
    assert list(tmp_path.iterdir()) == []
    with trec.dump(tmp_path / "trec", DATA, [episode]) as one:
        write = one.run("student")
        with pytest.raises(KeyError):
            write(replace(episode, opened=5), order)
        write(episode, order)
        with pytest.raises(KeyError):
            write(episode, order)
    with pytest.raises(InputError, match="exists already"), trec.dump(tmp_path / "trec", DATA, [episode]):
        pass


def test_openings_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    """Two rankings under one query id are one ranking with every candidate twice."""
    episode, _ = nothing()
    with pytest.raises(InputError, match="same second"), trec.dump(tmp_path / "trec", DATA, [episode, episode]):
        pass
