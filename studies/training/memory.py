"""How much memory a trial takes, by formula, so that one which cannot fit is refused before it starts.

What is held between a forward and its backward pass, in numbers of four bytes, for an episode of M items of which C are
candidates, Q users that ask, T padded tokens of candidates of at most L each; vectors of size W, a head of size d, n
trained layers with a feed-forward size I and h attention heads:

    head(M, Q)  = M·W + 4·M·d + 5·M·C + C·(6·W + 192) + Q·(M + 12·C)
    tower       = n·T·(12·W + 2·I + 3·h·L)
    first order = head(M, Q) + tower
    second order, S inner steps = head(M, Q) + tower + 2·S·(head(M', K) + tower) + S·(adapted weights)

where M' counts candidates and what the K users of the support had. A second-order step holds its forward pass and the
backward pass that it is differentiated through: hence twice. Where the encoder does not adapt, its tower is read once
for the whole meta-batch: its term is outside the steps and counts every episode's texts. On top of that lie weights,
gradient, AdamW's two moments and the adapted weights: 20 bytes per weight. It is an upper bound, checked against the
tensors that autograd really holds (tests/unit/test_studies_memory.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from storage.errors import InputError
from studies.config.hyperparameters import GRADIENT_LEARNERS, Hyperparameters, LearnerName, moves_encoder
from studies.config.search_domains import values_of
from studies.config.search_section import SearchSection
from studies.episodes.episode import Episode
from studies.learners import LEARNERS
from studies.learners.tasks.meta_batch import FILL
from studies.model.encoder import Encoder
from studies.model.recommender import Head

NUMBER = 4
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """Sizes of an episode: see the module's formula; `support_items` is M', `longest` is L, `tokens` T."""

    candidates: int
    items: int
    support_items: int
    queries: int
    shots: int
    tokens: int
    longest: int

    @classmethod
    def of(cls, episode: Episode, lengths: Tensor) -> Shape:
        """The shape of an episode whose items' texts have (items,) `lengths`."""
        own = lengths[episode.items[: episode.candidates].cpu()]
        longest = int(own.max())
        return cls(
            candidates=episode.candidates,
            items=len(episode.items),
            support_items=episode.candidates + len(episode.support_others),
            queries=len(episode.users),
            shots=len(episode.support),
            tokens=episode.candidates * longest,
            longest=longest,
        )


def largest(episodes: Sequence[Episode], lengths: Tensor, most: int | None = None) -> Shape:
    """A shape that no episode exceeds in anything; at most so many candidates where training thins them out."""
    shapes = [Shape.of(episode, lengths) for episode in episodes]
    bound = {name: max(getattr(shape, name) for shape in shapes) for name in Shape.__dataclass_fields__}
    if most is not None:
        kept = max(most, max(int(e.relevant.any(0).sum()) + len(e.support) for e in episodes))
        bound["candidates"] = min(kept, bound["candidates"])
        bound["tokens"] = min(bound["tokens"], bound["candidates"] * bound["longest"])
    return Shape(**bound)


def trial_bytes(values: Hyperparameters, shape: Shape, encoder: Encoder, at_once: int | None = None) -> int:
    """Upper bound of the memory of a trial's meta-update, in bytes, beside what every trial shares.

    Args:
        values: the configuration.
        shape: of the largest episode.
        encoder: the pretrained encoder.
        at_once: episodes side by side, where the study file says so.
    """
    config, layers = encoder.config, values.trainable_layers
    per_token = 12 * encoder.width + 2 * config.intermediate_size + 3 * config.num_attention_heads * shape.longest
    tower = layers * shape.tokens * per_token
    query = _head(shape.items, shape.candidates, shape.queries, encoder.width)
    support = _head(shape.support_items, shape.candidates, shape.shots, encoder.width)
    inner = moves_encoder(values)
    steps = (values.inner_steps or 0) if LEARNERS[values.learner].second_order else 0
    weights = sum(p.numel() for p in encoder.model.encoder.layer[:layers].parameters()) if layers else 0
    head = sum(p.numel() for p in Head(encoder.width, learned_rates=values.learned_rates).parameters())
    adapted = head + (weights if inner else 0)
    one = query + (tower if inner else 0) + 2 * steps * (support + (tower if inner else 0)) + steps * adapted
    if values.learner == "reptile":
        one += support  # its inner steps descend on support and query at once
    side_by_side = min(at_once or max(1, FILL // (shape.items * shape.candidates)), values.meta_batch_size)
    shared = 0 if inner else tower * values.meta_batch_size
    return NUMBER * (one * side_by_side + shared + 4 * (weights + head) + adapted)


def _head(items: int, candidates: int, users: int, width: int) -> int:
    size = 64
    pairs = items * candidates
    return items * (width + 4 * size) + 5 * pairs + candidates * (6 * width + 192) + users * (items + 12 * candidates)


def refuse_too_large(
    search: SearchSection, episodes: Sequence[Episode], lengths: Tensor, encoder: Encoder, available: int
) -> None:
    """Refuses a search space whose largest trial does not fit into memory.

    Args:
        search: the study file's section.
        episodes: meta-training episodes.
        lengths: (items,) tokens of each item's text.
        encoder: the pretrained encoder.
        available: bytes for one worker.

    Raises:
        InputError: names the learner, what it needs, what there is, and what to lower.
    """
    for learner in values_of(search.space["learner"]):
        values = _largest_values(search, learner)
        shape = largest(episodes, lengths, values.train_candidates)
        needed = trial_bytes(values, shape, encoder, search.episodes_at_once)
        if needed > available:
            steps = f", inner_steps = {values.inner_steps}" if values.inner_steps else ""
            raise InputError(
                f"{learner} with trainable_layers = {values.trainable_layers}{steps}, meta_batch_size = "
                f"{values.meta_batch_size} needs up to {needed / GIB:.1f} GiB of memory per worker, of which there are "
                f"{available / GIB:.1f}; lower these in [search.space] or [search.learners.{learner}], lower "
                "train_candidates or search.workers, or take the learner out"
            )


def _largest_values(search: SearchSection, learner: LearnerName) -> Hyperparameters:
    def most(name: str) -> int:
        return int(max(values_of(search.domain(name, learner)[1])))

    layers = max(values_of(search.space["trainable_layers"]))
    return Hyperparameters(
        learner=learner,
        meta_batch_size=most("meta_batch_size"),
        trainable_layers=layers,
        inner_steps=most("inner_steps") if learner in GRADIENT_LEARNERS else None,
        train_candidates=most("train_candidates") if layers else None,
    )
