"""The memory that a trial takes, by formula: it holds as many episodes together as fit, or is refused beforehand.

Elements of four bytes that are held between a forward and its backward pass, for an episode of M items of which C are
candidates and H in a history, Q query users, T padded tokens of candidates of at most L each; vectors of size W, a head
of size d, n trained layers with a feed-forward size I and h attention heads:

    head(M, H, Q) = M·W + 4·(M + H)·d + 5·H·C + C·(6·W + 192) + Q·(H + 12·C)
    tower       = n·T·(12·W + 2·I + 3·h·L), and n·T·(W + 2·h·L) more with dropout; relative positions and gates more
    first order = head(M, H, Q) + tower
    second order, S inner steps = head(M, H, Q) + tower + 2·S·(head(M', H', K) + tower) + S·(adapted weights)

where M' counts candidates and the items that the K users of the support had, H' the latter alone. A second-order step
holds its forward pass and the backward pass that it is differentiated through: hence twice. Where the encoder does not
adapt, its tower runs once for the whole meta-batch: its term is outside the steps and counts every episode's texts.
Weights, gradient, AdamW's two moments and the adapted weights are added: 20 bytes per weight. It is an upper bound,
checked against the tensors that autograd really holds (tests/unit/test_studies_memory.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from storage.errors import InputError
from studies.config.hyperparameters import Hyperparameters
from studies.config.search_domains import values_of
from studies.config.search_section import SearchSection
from studies.episodes.episode import Episode
from studies.learners.registry import LEARNERS
from studies.model.device import device_settings
from studies.model.encoder import Encoder
from studies.model.recommender import Head

BYTES_PER_ELEMENT = 4
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """Sizes of an episode; in the formula `support_items` is M', `support_held` H', `longest` L, `tokens` T."""

    candidates: int
    items: int
    held: int
    support_items: int
    support_held: int
    queries: int
    shots: int
    tokens: int
    longest: int

    @classmethod
    def of(cls, episode: Episode, lengths: Tensor) -> Shape:
        """Return the shape of an episode whose items' texts have (items,) `lengths`."""
        own = lengths[episode.items[: episode.candidates].cpu()]
        longest, columns = int(own.max()), episode.support_columns
        return cls(
            candidates=episode.candidates,
            items=len(episode.items),
            held=len(episode.held),
            support_items=episode.candidates + int((episode.held[columns] >= episode.candidates).sum()),
            support_held=len(columns),
            queries=len(episode.users),
            shots=len(episode.support),
            tokens=episode.candidates * longest,
            longest=longest,
        )


def largest(episodes: Sequence[Episode], lengths: Tensor, most: int | None = None) -> Shape:
    """Return a shape that no episode exceeds; with at most `most` candidates where training samples them."""
    shapes = [Shape.of(episode, lengths) for episode in episodes]
    bound = {name: max(getattr(shape, name) for shape in shapes) for name in Shape.__dataclass_fields__}
    if most is not None:
        kept = max(most, max(int(e.relevant.any(0).sum()) + len(e.support) for e in episodes))
        bound["candidates"] = min(kept, bound["candidates"])
        bound["tokens"] = min(bound["tokens"], bound["candidates"] * bound["longest"])
    return Shape(**bound)


def trial_bytes(values: Hyperparameters, shape: Shape, encoder: Encoder, vmap_episodes: int | None = None) -> int:
    """Return an upper bound of the memory of a trial's meta-update, in bytes, beside what every trial shares.

    Args:
        values: The configuration.
        shape: Shape of the largest episode.
        encoder: The pretrained encoder.
        vmap_episodes: Episodes side by side, where the study file says so.
    """
    tower = tower_elements(values, shape.tokens, shape.longest, encoder)
    query = _head(shape.items, shape.held, shape.candidates, shape.queries, encoder.width)
    support = _head(shape.support_items, shape.support_held, shape.candidates, shape.shots, encoder.width)
    inner = values.adapts_encoder
    steps = (values.inner_steps or 0) if values.entry.second_order else 0
    weights = tower_weights(values, encoder)
    head = sum(p.numel() for p in Head(encoder.width, learned_rates=values.entry.learns_inner_rates).parameters())
    adapted = head + (weights if inner else 0)
    one = query + (tower if inner else 0) + 2 * steps * (support + (tower if inner else 0)) + steps * adapted
    if values.entry.descends_on_query:
        one += support
    largest_tensor = max(shape.held, shape.queries) * shape.candidates
    vmap_episodes = vmap_episodes or max(1, device_settings().vmap_elements // largest_tensor)
    side_by_side = min(vmap_episodes, values.meta_batch_size)
    shared = 0 if inner else tower * values.meta_batch_size
    return BYTES_PER_ELEMENT * (one * side_by_side + shared + 4 * (weights + head) + adapted)


def tower_elements(values: Hyperparameters, tokens: int, longest: int, encoder: Encoder) -> int:
    """Return the elements that the trained layers hold of texts of so many padded tokens, at most `longest` each."""
    per_token = 12 * encoder.width + 2 * encoder.feed_forward + 3 * encoder.heads * longest
    per_token += encoder.architecture.extra(encoder.config, longest)
    if values.dropout:
        per_token += encoder.width + 2 * encoder.heads * longest
    return int(values.trainable_layers * tokens * per_token)


def tower_weights(values: Hyperparameters, encoder: Encoder) -> int:
    """Return the number of weights of the trained layers."""
    layers = values.trainable_layers
    return sum(p.numel() for p in encoder.parts.layers[:layers].parameters()) if layers else 0


def _head(items: int, held: int, candidates: int, users: int, width: int) -> int:
    size = 64
    pairs = held * candidates
    by_item = items * (width + 4 * size) + 4 * held * size
    return by_item + 5 * pairs + candidates * (6 * width + 192) + users * (held + 12 * candidates)


def refuse_too_large(search: SearchSection, bytes_of: Callable[[Hyperparameters], int], available: int) -> None:
    """Refuse a search space of which a trial does not fit into memory, even with one episode of a meta-batch at a time.

    Args:
        search: The study file's section.
        bytes_of: Returns the bytes that a trial with some values needs.
        available: Bytes for one worker.

    Raises:
        InputError: A trial needs more; the message names the learner, both amounts, and what to lower.
    """
    for learner in values_of(search.space["learner"]):
        values = _largest_values(search, learner)
        if (needed := bytes_of(values)) > available:
            steps = f", inner_steps = {values.inner_steps}" if values.inner_steps else ""
            raise InputError(
                f"{learner} with trainable_layers = {values.trainable_layers}{steps} needs up to {needed / GIB:.1f} "
                f"GiB of memory per worker for one episode, of which there are {available / GIB:.1f}; lower these in "
                f"[search.space] or [search.learners.{learner}], lower "
                f"{'train_candidates or ' if values.train_candidates else ''}search.workers, or take the learner out"
            )


def fitting(values: Hyperparameters, bytes_of: Callable[[Hyperparameters], int], available: int | None) -> int | None:
    """Return how many episodes of a meta-batch fit into memory together: half of them, or half of these; None for all.

    Args:
        values: The trial's values.
        bytes_of: Returns the bytes that a trial with some values needs.
        available: Bytes for one worker; None where they are not known, and all are held.
    """
    count = values.meta_batch_size
    while available is not None and count > 1 and bytes_of(replace(values, meta_batch_size=count)) > available:
        count = (count + 1) // 2
    return None if count == values.meta_batch_size else count


def _largest_values(search: SearchSection, learner: str) -> Hyperparameters:
    def most(name: str) -> int:
        return int(max(values_of(search.domain(name, learner)[1])))

    layers = max(values_of(search.space["trainable_layers"]))
    return Hyperparameters(
        learner=learner,
        meta_batch_size=1,
        trainable_layers=layers,
        inner_steps=most("inner_steps")
        if "inner_steps" in search.space and LEARNERS[learner].takes_gradient_steps
        else None,
        train_candidates=most("train_candidates") if layers and "train_candidates" in search.space else None,
        dropout=max(values_of(search.domain("dropout", learner)[1])) if layers else None,
    )
