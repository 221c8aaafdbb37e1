"""Serves an export: embeds texts, adapts to a scene, ranks its candidates.

What a user of a student imports. `StudentRecommender` needs the export folder alone; `load_export` and `as_student`
give its parts to `hpo evaluate`, which measures a folder as the study measured the student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call

from distill.hyperparameters import StudentHyperparameters
from distill.manifest import HEAD, LEXICON, verify
from distill.student import Student, TokenTower, assemble
from storage.errors import InputError
from studies.catalogue import terms, weigh_fields
from studies.device import device, full_precision
from studies.encoder import Ragged, quiet_transformers, tokenize
from studies.episodes import Episode
from studies.evaluation import encode_items
from studies.hyperparameters import Hyperparameters
from studies.learners import Learner
from studies.lexicon import BUCKETS, Lexicon, count_words, overlap
from studies.metrics import top_k
from studies.recommender import AdaptedScene, Head, texts_of

if TYPE_CHECKING:
    from transformers import DistilBertModel, PreTrainedTokenizerBase

History = Sequence[str]


@dataclass(frozen=True)
class ExportedStudent:
    """What an export folder holds.

    Attributes:
        manifest: of `distill/manifest.py`, checked.
        tokenizer: cuts at the student's limit.
        model: the encoder, fp32.
        head: what adapts.
        learner: the values by which it adapts.
        lexicon: the words of the texts that it was trained on.
    """

    manifest: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase
    model: DistilBertModel
    head: Head
    learner: Hyperparameters
    lexicon: Lexicon

    @property
    def max_tokens(self) -> int:
        """Where texts are cut."""
        return int(self.manifest["max_tokens"])


def load_export(folder: Path) -> ExportedStudent:
    """Opens an export after checking its version and every file's digest; reads nothing else and no network.

    Raises:
        InputError: the folder is no export, of another version, or a file is missing or altered.
    """
    manifest = verify(folder)
    from transformers import AutoTokenizer, DistilBertModel

    quiet_transformers()
    weights = load_file(folder / HEAD)
    size, width = weights["project.weight"].shape
    learner = Hyperparameters(**manifest["learner"])
    head = Head(width, size, learned_rates=learner.learned_rates)
    head.load_state_dict(weights)
    return ExportedStudent(
        manifest=manifest,
        tokenizer=AutoTokenizer.from_pretrained(folder, local_files_only=True),
        model=DistilBertModel.from_pretrained(folder, local_files_only=True, use_safetensors=True),
        head=head,
        learner=learner,
        lexicon=_read_lexicon(folder),
    )


def _read_lexicon(folder: Path) -> Lexicon:
    stored = load_file(folder / LEXICON)
    frequency = np.zeros(BUCKETS, dtype=np.int64)
    frequency[stored["buckets"].numpy()] = stored["frequency"].numpy()
    return Lexicon(int(stored["texts"]), frequency)


def as_student(exported: ExportedStudent, tokens: Ragged) -> Student:
    """The student that was exported, asked about the items whose `tokens` these are: `distill.objective.evaluate` it.

    Args:
        exported: of `load_export`.
        tokens: `tokenize(exported.tokenizer, texts, exported.max_tokens)` of a data set's texts.
    """
    values = StudentHyperparameters(**exported.manifest["distillation"])
    return assemble(exported.model, exported.head, tokens, exported.max_tokens, exported.learner, values)


class Ranking(NamedTuple):
    """The top of each user's list.

    Attributes:
        items: (R, k) positions among the candidates, best first; equal scores in the candidates' order.
        scores: (R, k) their scores, comparable within a row.
    """

    items: Tensor
    scores: Tensor


class StudentRecommender:
    """A recommender that adapts to a new scene from a handful of interactions, served from an export folder.

    Everything runs in fp32 on the GPU where there is one, so that it gives what the export's figures were measured
    on. A history is a user's last items, oldest first; as in the study, no more than the protocol's are read.

    >>> student = StudentRecommender.load(folder)
    >>> candidates = ["whole milk", "skim milk", "oat drink"]
    >>> scene = student.adapt(candidates, support=[(["corn flakes"], 0), ([], 0), (["soy yoghurt"], 2)])
    >>> ranking = scene.rank([["muesli", "corn flakes"], []], k=2)
    >>> ranking.items.shape
    torch.Size([2, 2])
    >>> candidates[ranking.items[0, 0]] in candidates
    True
    """

    def __init__(self, exported: ExportedStudent) -> None:
        self.manifest = exported.manifest
        self._tokenizer, self._lexicon = exported.tokenizer, exported.lexicon
        self._student = as_student(exported, tokenize(exported.tokenizer, [""], exported.max_tokens))

    @classmethod
    def load(cls, folder: Path | str) -> StudentRecommender:
        """Opens an export.

        Raises:
            InputError: the folder is no export, of another version, or a file is missing or altered.
        """
        return cls(load_export(Path(folder)))

    @property
    def learner(self) -> Learner:
        """Adapts the head to a scene."""
        return self._student.learner

    @property
    def longest_history(self) -> int:
        """How many of a user's last items are read."""
        return int(self.manifest["spec"]["protocol"]["history"])

    def embed(self, texts: Sequence[str]) -> Tensor:
        """(n, D) vectors of length 1, on the device."""
        if not texts:
            return torch.empty(0, self.manifest["width"], device=device())
        tokens = tokenize(self._tokenizer, texts, self._student.max_tokens)
        tower = TokenTower(self._student.tower.model, tokens)
        with full_precision():
            return encode_items(tower, torch.arange(len(texts), device=device()), tokens.lengths)

    def adapt(
        self,
        candidates: Sequence[str],
        support: Sequence[tuple[History, int]],
        products: Sequence[int] | None = None,
    ) -> Scene:
        """Adapts to a scene.

        Args:
            candidates: texts of the scene's items, each once.
            support: the scene's first interactions in order of time: the user's history before it, and the
                position of the taken item among the candidates.
            products: how many of the shop's products each candidate's text stands for; 1 each if left out.

        Raises:
            InputError: no or repeated candidates, no support, a position that no candidate has, or products that are
                not one positive number per candidate.
        """
        _check(candidates, support, products)
        # A study whose systems do not know the number of products has a zero in its place.
        known = self.manifest["spec"]["protocol"]["products"] and products is not None
        counted = np.asarray(products, dtype=np.int64) if known else None
        texts, counts = self.localise(candidates, [history for history, _ in support])
        places = np.array([taken for _, taken in support])
        alike = overlap(self._lexicon.weigh(count_words(candidates)), places)
        nobody = torch.zeros(0, len(candidates), dtype=torch.bool, device=device())
        episode = Episode(
            scene=0,
            opened=0,
            items=torch.arange(len(texts), device=device()),
            candidates=len(candidates),
            support=torch.from_numpy(places).to(device()),
            support_history=counts,
            query_history=counts[:0],
            relevant=nobody,
            excluded=nobody,
            elsewhere=torch.zeros(len(candidates), device=device()),
            overlap=torch.from_numpy(alike).to(device()),
            fields=torch.from_numpy(overlap(weigh_fields(candidates), places)).to(device()),
            terms=torch.from_numpy(terms(candidates, counted)).to(device()),
            users=torch.empty(0, dtype=torch.int64, device=device()),
            rows=torch.empty(0, dtype=torch.int64, device=device()),
        )
        vectors = self.embed(texts)
        adapted = self.learner.adapt(episode, vectors)
        return Scene(self, candidates, vectors[: len(candidates)], episode, adapted)

    def localise(self, candidates: Sequence[str], histories: Sequence[History]) -> tuple[list[str], Tensor]:
        """The candidates and the histories' other texts, (M,), and each history as counts over them, (R, M).

        Raises:
            InputError: a history is one text instead of a list.
        """
        if isinstance(lone := next((history for history in histories if isinstance(history, str)), None), str):
            raise InputError(f"a history is a list of texts, got the text {lone!r}; pass [{lone!r}]")
        place = {text: position for position, text in enumerate(candidates)}
        cut = [history[-self.longest_history :] for history in histories]
        for text in (text for history in cut for text in history):
            place.setdefault(text, len(place))
        counts = torch.zeros(len(cut), len(place))
        for row, history in enumerate(cut):
            for text in history:
                counts[row, place[text]] += 1
        return list(place), counts.to(device())


class Scene:
    """A scene that a student has adapted to; `StudentRecommender.adapt` makes it.

    Holds the candidates' vectors and the adapted weights: ranking encodes only texts of histories.
    """

    def __init__(
        self,
        student: StudentRecommender,
        candidates: Sequence[str],
        vectors: Tensor,
        episode: Episode,
        adapted: AdaptedScene,
    ) -> None:
        self._student, self._candidates, self._vectors = student, list(candidates), vectors
        self._support, self._texts, self._adapted = episode.support, texts_of(episode), adapted

    @torch.no_grad()
    def rank(self, histories: Sequence[History], k: int = 10) -> Ranking:
        """Ranks the scene's candidates for each user.

        Args:
            histories: one per user; an empty one is a user nothing is known of.
            k: length of the lists; shorter where there are fewer candidates.

        Raises:
            InputError: k below 1.
        """
        if k < 1:
            raise InputError(f"k = {k}: a list has at least 1 item; pass k of 1 or more")
        count = len(self._candidates)
        texts, counts = self._student.localise(self._candidates, histories)
        vectors = torch.cat([self._vectors, self._student.embed(texts[count:])])
        # Other histories than the support's: the adapted head reads their items.
        head = self._student.learner.model.head
        inputs = (vectors, count, self._support, self._texts)
        reading = functional_call(head, dict(self._adapted.head), inputs)
        scores = replace(self._adapted, reading=reading).scores(counts)
        items = top_k(scores, k)
        return Ranking(items, scores.gather(1, items))


def _check(candidates: Sequence[str], support: Sequence[tuple[History, int]], products: Sequence[int] | None) -> None:
    if len(candidates) == 0:
        raise InputError("there are no candidates; give the texts of the scene's items")
    if len(set(candidates)) < len(candidates):
        twice = next(text for position, text in enumerate(candidates) if text in candidates[:position])
        raise InputError(
            f"candidates hold {twice!r} more than once; give each text once: texts are what tells items apart"
        )
    if products is not None and (len(products) != len(candidates) or min(products) < 1):
        raise InputError(
            f"products are {len(products)} numbers from {min(products, default=0)} on for {len(candidates)} "
            "candidates; give one whole number of at least 1 for each"
        )
    if len(support) == 0:
        raise InputError("the support is empty; give at least one (history, position of the taken candidate)")
    for _, taken in support:
        if not 0 <= taken < len(candidates):
            raise InputError(
                f"the support takes candidate {taken}, but the {len(candidates)} candidates are numbered from 0 to "
                f"{len(candidates) - 1}; give a position among them"
            )
