"""Explains a few lists of an exported recommender: users of test scenes, chosen without a look at their lists."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.export.task_export import spread
from distill.export.tasks.explained import (
    EPISODES,
    LIST,
    PARTS,
    SHARED,
    ExplainedItem,
    ExplainedList,
    ExplainedPart,
    ExplainedTerm,
    Explanations,
    cut,
)
from distill.export.tasks.popularity import Popularity
from distill.export.tasks.ranking import as_texts
from distill.inference import Catalogue, Scene, StudentRecommender
from distill.serving.ranking.scene import Reason
from studies.episodes.catalogue_terms import split_fields
from studies.episodes.episode import Episode
from studies.episodes.tfidf import count_words
from studies.episodes.words import split_words
from studies.training.problem import Problem
from studies.training.ranking import RankingProblem

Counts = npt.NDArray[np.int64]


def explain(problem: Problem, folder: Path) -> Explanations:
    """Return the top of a few users' lists in test scenes, with the terms of each score.

    Args:
        problem: The study's data.
        folder: The export.
    """
    assert isinstance(problem, RankingProblem)
    chosen = _choose(problem)
    if not chosen:
        return Explanations()
    asked = [as_texts(problem, episode, slice(query, query + 1)) for episode, query in chosen]
    products = {text: n for each in asked for text, n in zip(each["candidates"], each["products"], strict=True)}
    student = StudentRecommender.load(folder)
    with problem.reporter.progress("embedding the items of explained lists") as progress:
        catalogue = student.catalogue(list(products), list(products.values()), progress)
    lists = []
    for (episode, query), request in zip(chosen, asked, strict=True):
        scene = _adapted(catalogue, request)
        lists.append(_explained(problem, episode, query, scene, request["histories"][0], student.longest_history))
    return Explanations(lists=tuple(lists))


def _choose(problem: RankingProblem) -> list[tuple[Episode, int]]:
    """Return a few scenes, spread evenly, each with its first episode that has a user with a history, and this user.

    Where no user has a history, the first of the first episode.
    """
    found: dict[int, tuple[Episode, int]] = {}
    for episode in problem.test:
        known = episode.query_history.any(1).nonzero().flatten().tolist()
        if known:
            found.setdefault(episode.scene, (episode, known[0]))
    if not found:
        found = {episode.scene: (episode, 0) for episode in reversed(problem.test)}
    return spread([found[scene] for scene in sorted(found)], EPISODES)


def _adapted(catalogue: Catalogue, request: dict[str, Any]) -> Scene:
    candidates, counts = request["candidates"], request["popularity"]
    popularity = None if counts is None else Popularity.of(candidates, counts)
    return catalogue.adapt(request["support"], candidates, popularity)


def _explained(
    problem: RankingProblem, episode: Episode, query: int, scene: Scene, history: list[str], longest: int
) -> ExplainedList:
    ranking = scene.rank([history], LIST)
    # What the user took already has no finite score, where the study excludes it.
    scores = [score for score in ranking.scores[0].tolist() if math.isfinite(score)]
    items = ranking.items[0].tolist()[: len(scores)]
    relevant, counts = episode.relevant[query].tolist(), _word_counts(problem, scene)
    return ExplainedList(
        scene=problem.scene_name(episode),
        candidates=len(scene.candidates),
        support=tuple(cut(scene.candidates[place]) for place in episode.support.tolist()),
        history=tuple(map(cut, history[-longest:])),
        taken=sum(relevant),
        items=tuple(
            ExplainedItem(
                text=cut(scene.candidates[item]),
                score=score,
                taken=relevant[item],
                terms=tuple(_term(scene.candidates[item], reason, counts) for reason in reasons),
            )
            for item, score, reasons in zip(items, scores, scene.explain(history, items), strict=True)
        ),
    )


def _word_counts(problem: RankingProblem, scene: Scene) -> Counts:
    """Return in how many texts the words of each bucket occur, as `Lexicon.weigh` counts them in a test scene."""
    known = problem.lexicon.frequency
    counted = problem.spec.protocol.candidates == "all"
    return known if counted else known + count_words(scene.candidates).getnnz(axis=0)


def _term(item: str, reason: Reason, counts: Counts) -> ExplainedTerm:
    """Return a term with the texts that have most of it, and what those share with the item."""
    parts = [
        ExplainedPart(text=cut(text), value=value, shared=_shared(reason.name, item, text, counts))
        for text, value in reason.items[:PARTS]
        if value
    ]
    return ExplainedTerm(name=reason.name, value=reason.value, parts=tuple(parts))


def _shared(term: str, item: str, text: str, counts: Counts) -> tuple[str, ...]:
    """Return the words, or fields, that a term found in two texts."""
    if term == "support fields":
        both = set(split_fields(text))
        return tuple(cut(field) for field in dict.fromkeys(split_fields(item)) if field in both)[:SHARED]
    if term == "support words":
        both = set(split_words(text.lower()))
        words = [word for word in dict.fromkeys(split_words(item.lower())) if word in both]
        # One term each, and so one bucket.
        frequency = counts[count_words(words).indices].tolist() if words else []
        ranked = sorted(zip(frequency, words, strict=True), key=lambda each: each[0])
        # The model tells "tea," from "tea"; to a reader they are one word.
        return tuple(dict.fromkeys(cut(word.rstrip(",")) for _, word in ranked))[:SHARED]
    return ()
