"""Scenes, periods and episodes: everything that makes a recall honest, against a second, slow implementation."""

import json
import re
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from storage.errors import InputError
from studies.config.protocol_section import RankingProtocol
from studies.data.coding import build_dataset
from studies.data.dataset import Dataset, keep_first_interactions, keep_scenes
from studies.data.source import Tables
from studies.episodes.coverage import Coverage, enough_for_a_mean
from studies.episodes.episode import Episode
from studies.episodes.sampler import EpisodeSampler
from studies.episodes.split import DAY, MINIMUM_SCENES, SPLIT_NAMES, Split, SplitName, split_scenes
from tests.synthetic import planted_dataset

PROTOCOL = RankingProtocol(
    shots=3, k=5, history=4, queries=6, openings=5, train_queries=5, train_openings=4, split=(0.5, 0.25, 0.25)
)


@dataclass
class Row:
    """One interaction, its item named by its text."""

    time: int
    user: int
    scene: str
    item: str


class BruteForce:
    """The protocol again, in plain loops over rows: no index, no code, no array shared with the real one."""

    def __init__(self, data: Dataset, parts: Split, protocol: RankingProtocol) -> None:
        self.protocol, self.texts = protocol, list(data.texts)
        columns = (data.time, data.user, data.scene, data.item)
        self.rows = [
            Row(time, user, data.scenes[scene], data.texts[item])
            for time, user, scene, item in zip(*(column.tolist() for column in columns), strict=True)
        ]
        pairs = np.repeat(np.arange(len(data.scenes)), np.diff(data.catalogue_start))
        self.catalogue = [(data.scenes[s], data.texts[i]) for s, i in zip(pairs, data.catalogue, strict=True)]
        self.ends = {data.scenes[code]: parts.period[part][1] for part in SPLIT_NAMES for code in parts.scenes[part]}
        self.held_out = {data.scenes[code] for part in ("validation", "test") for code in parts.scenes[part]}

    def window(self, scene: str, opened: int) -> list[Row]:
        """The scene's rows while the episode is open, and its part's period lasts."""
        closes = min(opened + round(self.protocol.window_days * DAY), self.ends[scene])
        return [row for row in self.rows if row.scene == scene and opened <= row.time < closes]

    def visible(self, user: int, before: int, scene: str, opened: int) -> list[str]:
        """What the user had taken before a time, as far as this episode may know."""
        seen = []
        for row in self.rows:
            known = row.time >= opened if row.scene == scene else row.scene not in self.held_out
            if row.user == user and row.time < before and known:
                seen.append(row.item)
        return seen

    def history(self, user: int, before: int, scene: str, opened: int) -> list[str]:
        """The last of these."""
        return self.visible(user, before, scene, opened)[-self.protocol.history :]

    @property
    def shared(self) -> bool:
        """Whether a candidate of one scene can be taken in another."""
        texts = [text for _, text in self.catalogue]
        return self.protocol.candidates == "all" or len(set(texts)) < len(texts)

    def past(self, candidates: list[str], user: int, before: int, scene: str, opened: int) -> list[int]:
        """How often the user had taken each candidate; nothing where no candidate can have been taken elsewhere."""
        seen = self.visible(user, before, scene, opened)
        return [seen.count(text) for text in candidates] if self.shared else []

    def check_elsewhere(self, episode: Episode, scene: str, candidates: list[str]) -> None:
        """The decayed counts are of days before the opening, in other training scenes."""
        if not self.shared:
            assert episode.elsewhere.shape == (len(candidates), 0)
            return
        today = episode.opened // DAY
        known = [
            row
            for row in self.rows
            if row.time // DAY < today and row.scene != scene and row.scene not in self.held_out
        ]
        for column, half_life in enumerate((None, 28, 7)):
            counts = [
                sum(1.0 if half_life is None else 0.5 ** ((today - row.time // DAY) / half_life) for row in own)
                for own in ([row for row in known if row.item == text] for text in candidates)
            ]
            found = episode.elsewhere[:, column].tolist()
            assert found == pytest.approx(counts, rel=1e-5, abs=1e-6)
            assert all((one == 0) == (other == 0) for one, other in zip(found, counts, strict=True))
            assert float(episode.elsewhere_total[column]) == pytest.approx(sum(counts), rel=1e-5, abs=1e-6)

    def check(
        self, episode: Episode, scene: str, limit: int, shots: int | None = None, after: int | None = None
    ) -> None:
        """Everything an episode holds, in names, equals what the rows say."""
        shots, opened = shots or self.protocol.shots, episode.opened
        window = self.window(scene, opened)
        support, last = window[:shots], window[shots - 1].time
        settled = window[(after or shots) - 1].time
        later = [row for row in window if row.time > settled]
        named = [self.texts[code] for code in episode.items.tolist()]
        candidates = named[: episode.candidates]
        held = [named[i] for i in episode.held.tolist()]
        assert len(set(named)) == len(named)
        everything = self.protocol.candidates == "all"
        assert candidates == [text for text in self.texts if everything or (scene, text) in self.catalogue]
        assert [self.rows[row] for row in episode.rows.tolist()] == support
        assert [named[i] for i in episode.support.tolist()] == [row.item for row in support]
        for row, counts in zip(support, episode.support_history.tolist(), strict=True):
            assert bag(held, counts) == sorted(self.history(row.user, row.time, scene, opened))
        for row, past in zip(support, episode.support_past.tolist(), strict=True):
            assert past == self.past(candidates, row.user, row.time, scene, opened)
        self.check_elsewhere(episode, scene, candidates)
        users = episode.users.tolist()
        possible = sorted({row.user for row in later})
        assert users == sorted(set(users) & set(possible))
        assert len(users) == min(limit, len(possible))
        for user, counts, relevant, excluded in zip(
            users, episode.query_history.tolist(), episode.relevant.numpy(), episode.excluded.numpy(), strict=True
        ):
            assert bag(held, counts) == sorted(self.history(user, last + 1, scene, opened))
            past = episode.query_past[users.index(user)].tolist()
            assert past == self.past(candidates, user, last + 1, scene, opened)
            taken = {row.item for row in later if row.user == user}
            assert {candidates[i] for i in np.flatnonzero(relevant)} == taken
            had = set(self.visible(user, last + 1, scene, opened)) if self.protocol.repeat == "exclude" else set()
            assert {candidates[i] for i in np.flatnonzero(excluded)} == had & set(candidates)
        used = {i for row in (*episode.support_history, *episode.query_history) for i in np.flatnonzero(row)}
        assert used == set(range(len(held)))
        assert set(named[episode.candidates :]) <= set(held)


def bag(named: list[str], counts: list[float]) -> list[str]:
    return sorted(item for item, count in zip(named, counts, strict=True) for _ in range(int(count)))


def equal(a: list[Episode], b: list[Episode]) -> bool:
    def same(x: Any, y: Any) -> bool:
        return torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y

    return len(a) == len(b) and all(
        same(value, vars(other)[name]) for one, other in zip(a, b, strict=True) for name, value in vars(one).items()
    )


@pytest.fixture(scope="module")
def data() -> Dataset:
    return planted_dataset()


@pytest.fixture(scope="module")
def parts(data: Dataset) -> Split:
    return split_scenes(data, PROTOCOL)


@pytest.fixture(scope="module")
def sampler(data: Dataset, parts: Split) -> EpisodeSampler:
    return EpisodeSampler(data, parts, PROTOCOL)


@pytest.mark.parametrize("part", SPLIT_NAMES)
def test_sampled_episodes_equal_the_slow_reading_of_the_protocol(
    data: Dataset, parts: Split, sampler: EpisodeSampler, part: SplitName
) -> None:
    """Any leak or shift here makes every later recall wrong, and nothing else would show it."""
    episodes = sampler.sample(part)
    assert len(episodes) > MINIMUM_SCENES[part]
    slow = BruteForce(data, parts, PROTOCOL)
    for episode in episodes:
        slow.check(episode, data.scenes[episode.scene], PROTOCOL.train_queries if part == "train" else PROTOCOL.queries)


@pytest.mark.parametrize("part", SPLIT_NAMES)
def test_episodes_stay_in_their_part_and_their_period(
    data: Dataset, parts: Split, sampler: EpisodeSampler, part: SplitName
) -> None:
    """A window that reaches into the next period trains on the time that is to be predicted."""
    begin, end = parts.period[part]
    episodes = sampler.sample(part)
    assert {episode.scene for episode in episodes} <= set(parts.scenes[part].tolist())
    keys = [(episode.scene, episode.opened) for episode in episodes]
    assert keys == sorted(set(keys))
    for episode in episodes:
        assert begin <= episode.opened
        assert episode.opened + PROTOCOL.window_days * DAY <= end
    openings = PROTOCOL.train_openings if part == "train" else PROTOCOL.openings
    assert max(sum(episode.scene == code for episode in episodes) for code in parts.scenes[part]) == openings


def test_training_never_touches_an_item_of_a_held_out_scene(
    data: Dataset, parts: Split, sampler: EpisodeSampler
) -> None:
    """Histories that name a test scene's items teach their popularity before the scene exists."""
    touched = {int(i) for episode in sampler.sample("train") for i in episode.items}
    assert touched & set(data.items_in(parts.held_out).tolist()) == set()
    assert touched <= set(data.items_in(parts.scenes["train"]).tolist())


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_held_out_episode_shows_no_other_held_out_scene(
    data: Dataset, parts: Split, sampler: EpisodeSampler, part: SplitName
) -> None:
    """Another held-out scene's items in a history are the answers of another episode."""
    for episode in sampler.sample(part):
        others = set(episode.items[episode.candidates :].tolist())
        assert others & set(data.items_in(parts.held_out).tolist()) == set()


def test_sampling_twice_gives_the_same_episodes_and_another_seed_others(data: Dataset, parts: Split) -> None:
    """Workers sample on their own: if they differ, their trials' recalls are not comparable."""
    for part in SPLIT_NAMES:
        first = EpisodeSampler(data, parts, PROTOCOL).sample(part)
        assert equal(first, EpisodeSampler(planted_dataset(), split_scenes(data, PROTOCOL), PROTOCOL).sample(part))
        other = PROTOCOL.model_copy(update={"seed": 1})
        assert not equal(first, EpisodeSampler(data, parts, other).sample(part))


def test_the_order_in_which_parts_are_sampled_does_not_matter(data: Dataset, parts: Split) -> None:
    """A worker that looks at validation first would otherwise train on other episodes than its neighbours."""
    one, two = EpisodeSampler(data, parts, PROTOCOL), EpisodeSampler(data, parts, PROTOCOL)
    train, _ = one.sample("train"), two.sample("validation")
    assert equal(two.sample("train"), train)


@st.composite
def shops(draw: st.DrawFn) -> tuple[Dataset, RankingProtocol]:
    """Small shops in which collisions of time, repeated items and empty windows are common."""
    scenes = draw(st.integers(10, 12))
    sizes = draw(st.lists(st.integers(1, 4), min_size=scenes, max_size=scenes))
    stores = draw(st.booleans())  # scenes that share their items, as a matter of the log
    items = [(f"s{scene}", f"s{scene} t{i}") for scene, size in enumerate(sizes) for i in range(size)]
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    count = draw(st.integers(50, 300))
    unit = draw(st.sampled_from([1, 7, DAY]))  # coarse clocks make many rows simultaneous
    times = rng.integers(0, 60 * DAY // unit, count) * unit
    times[:2] = 0, 60 * DAY
    log = pl.DataFrame(
        {"user": rng.integers(0, draw(st.integers(1, 9)), count), "product": rng.integers(0, len(items), count)}
    ).with_columns(pl.Series("time", times))
    catalogue = pl.DataFrame(items, schema=["scene", "text"], orient="row").with_row_index("product")
    protocol = RankingProtocol(
        shots=draw(st.integers(1, 4)),
        window_days=draw(st.sampled_from([1, 2.5, 10])),
        history=draw(st.integers(1, 5)),
        queries=draw(st.integers(1, 3)),
        split_by=draw(st.sampled_from(["hash", "opening"])),
        split=(0.4, 0.3, 0.3),
        seed=draw(st.integers(0, 5)),
        repeat=draw(st.sampled_from(["allow", "exclude"])),
        candidates=draw(st.sampled_from(["scene", "all"])),
    )
    if stores:
        log = log.with_columns(pl.Series("scene", [f"s{code}" for code in rng.integers(0, scenes, count)]))
        # Every store sells something, so that there are as many scenes as were drawn.
        log = log.with_columns(
            scene=pl.when(pl.int_range(pl.len()) < scenes)
            .then(pl.format("s{}", pl.int_range(pl.len())))
            .otherwise("scene")
        )
        catalogue = catalogue.drop("scene")
    catalogue = catalogue.with_columns(pl.col("product").cast(pl.Int64))
    data = build_dataset(Tables(log, catalogue, len(log)))
    if protocol.repeat == "exclude":
        data = keep_first_interactions(data)
    assume(data.time[-1] - data.time[0] > 5.1 * protocol.window_days * DAY)
    return data, protocol


@settings(max_examples=40, deadline=None)
@given(shops(), st.integers(-DAY, 61 * DAY))
def test_any_opening_of_any_scene_equals_the_slow_reading(shop: tuple[Dataset, RankingProtocol], opened: int) -> None:
    """Ties of time, repeated purchases and openings at the edge are where an index is off by one."""
    data, protocol = shop
    parts = split_by_either(data, protocol)
    sampler, slow = EpisodeSampler(data, parts, protocol), BruteForce(data, parts, protocol)
    for scene, name in enumerate(data.scenes):
        episode = sampler.episode(scene, opened, protocol.queries, np.random.default_rng(0))
        window = slow.window(name, opened)
        last = window[protocol.shots - 1].time if len(window) >= protocol.shots else None
        exists = last is not None and any(row.time > last for row in window)
        assert (episode is not None) == exists
        if episode is not None:
            slow.check(episode, name, protocol.queries)


def split_by_either(data: Dataset, protocol: RankingProtocol) -> Split:
    """The split as the protocol says; by hash where too many scenes start together for another."""
    try:
        return split_scenes(data, protocol)
    except InputError:
        return split_scenes(data, protocol.model_copy(update={"split_by": "hash"}))


def test_supports_of_several_sizes_share_openings_and_queries(
    data: Dataset, parts: Split, sampler: EpisodeSampler
) -> None:
    """With queries of their own, recall against shots would also show how users change in a month."""
    slow = BruteForce(data, parts, PROTOCOL)
    nested = sampler.nested("test", [1, 3, 6])
    assert list(nested) == [1, 3, 6]
    for shots, episodes in nested.items():
        for episode, largest in zip(episodes, nested[6], strict=True):
            slow.check(episode, data.scenes[episode.scene], PROTOCOL.queries, shots, after=6)
            assert (episode.scene, episode.opened) == (largest.scene, largest.opened)
            assert torch.equal(episode.users, largest.users)
            assert torch.equal(episode.relevant, largest.relevant)
            assert episode.support.tolist() == largest.support.tolist()[:shots]


def test_sizes_of_the_support_that_too_few_scenes_reach_are_left_out(sampler: EpisodeSampler) -> None:
    """A point of the curve over one busy scene would be read as one over all."""
    assert list(sampler.nested("test", [1, 6, 10_000])) == [1, 6]
    assert sampler.nested("test", [10_000]) == {}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20), st.integers(12, 40), st.sampled_from([(0.6, 0.2, 0.2), (0.4, 0.3, 0.3), (0.34, 0.33, 0.33)]))
def test_a_split_is_disjoint_complete_ordered_in_time_and_stable(
    seed: int, scenes: int, fractions: tuple[float, float, float]
) -> None:
    """A scene in two parts is a test scene that was trained on."""
    protocol = RankingProtocol(split_by="hash", split=fractions, seed=seed, window_days=1)
    data = named_scenes(scenes)
    if round(fractions[1] * scenes) < 3:
        with pytest.raises(InputError, match="meta-validation, which needs at least 3"):
            split_scenes(data, protocol)
        return
    parts = split_scenes(data, protocol)
    codes = [set(parts.scenes[part].tolist()) for part in SPLIT_NAMES]
    assert set.union(*codes) == set(range(scenes))
    assert all(a.isdisjoint(b) for a, b in combinations(codes, 2))
    assert [len(c) for c in codes[1:]] == [round(f * scenes) for f in fractions[1:]]
    assert set(parts.held_out.tolist()) == codes[1] | codes[2]
    again = split_scenes(named_scenes(scenes), protocol)
    assert all((parts.scenes[part] == again.scenes[part]).all() for part in SPLIT_NAMES)
    (a, b), (c, d), (e, f) = (parts.period[part] for part in SPLIT_NAMES)
    assert a == data.time[0] < b == c < d == e < f == data.time[-1] + 1


def named_scenes(count: int) -> Dataset:
    names = [f"scene {n}" for n in range(count)]
    items = pl.DataFrame({"product": range(count), "scene": names, "text": ["x"] * count})
    log = pl.DataFrame({"user": [0] * count, "product": range(count), "time": [n * DAY for n in range(count)]})
    return build_dataset(Tables(log, items, count))


def campaigns(count: int = 24, rows: int = 40, days: int = 21, seed: int = 0) -> Dataset:
    """Scenes that start one after the other, two weeks apart, and live a few weeks; some start together."""
    rng = np.random.default_rng(seed)
    names = [f"campaign {rng.permutation(count)[0]} {n}" for n in range(count)]
    log = [
        (int(rng.integers(0, 30)), int(rng.integers(0, 20)), (n - n % 5 // 4) * 14 * DAY + int(at), names[n])
        for n in range(count)
        for at in (0, *rng.integers(0, days * DAY, rows - 1))
    ]
    items = pl.DataFrame({"product": range(20), "text": [f"thing {n}" for n in range(20)]})
    frame = pl.DataFrame(log, schema=["user", "product", "time", "scene"], orient="row")
    return build_dataset(Tables(frame, items, len(log)))


def test_scenes_that_live_a_few_weeks_are_split_by_when_they_start() -> None:
    """Split by hash, a campaign must happen to fall into its part's period, and most have no episode."""
    data = campaigns()
    parts = split_scenes(data, PROTOCOL)
    assert parts.by == "opening"
    starts = {code: data.time[data.scene == code].min() for code in range(len(data.scenes))}
    (a, b), (c, d), (e, f) = (parts.period[part] for part in SPLIT_NAMES)
    assert (a, b, d, f) == (data.time[0], c, e, data.time[-1] + 1)
    for part, begin in (("train", a), ("validation", c), ("test", e)):
        assert min(starts[code] for code in parts.scenes[part]) == begin
    assert [len(parts.scenes[part]) for part in SPLIT_NAMES] == [12, 6, 6]
    assert max(starts[s] for s in parts.scenes["train"]) <= c <= max(starts[s] for s in parts.scenes["validation"]) <= e
    assert split_scenes(planted_dataset(), PROTOCOL).by == "hash"


@pytest.mark.parametrize("part", SPLIT_NAMES)
def test_episodes_of_short_lived_scenes_begin_with_their_start_and_end_with_their_period(part: SplitName) -> None:
    """A training window that runs on into validation learns from what is to be scored."""
    data = campaigns()
    parts = split_scenes(data, PROTOCOL)
    episodes, slow = EpisodeSampler(data, parts, PROTOCOL).sample(part), BruteForce(data, parts, PROTOCOL)
    for scene in {episode.scene for episode in episodes}:
        opened = [episode.opened for episode in episodes if episode.scene == scene]
        own = data.time[data.scene == scene]
        assert opened == sorted(set(opened))
        assert opened[0] == own.min()
        assert opened[-1] < min(own.max(), parts.period[part][1])
    for episode in episodes:
        slow.check(episode, data.scenes[episode.scene], PROTOCOL.train_queries if part == "train" else PROTOCOL.queries)
    assert len({episode.scene for episode in episodes}) >= len(parts.scenes[part]) - 1


def test_openings_with_fewer_customers_than_the_protocol_asks_for_give_no_episode(
    data: Dataset, parts: Split, sampler: EpisodeSampler
) -> None:
    """A scene whose only query has one answer is 0 or 1, and would count as much as one of a hundred customers."""
    episodes = sampler.sample("test")
    sizes = [len(np.unique(data.user[later_rows(data, parts, episode)])) for episode in episodes]
    fewest = int(np.median(sizes)) + 1
    # More users than an episode holds come later: the number that is asked for is not of those that are drawn.
    protocol = PROTOCOL.model_copy(update={"min_queries": fewest})
    kept = EpisodeSampler(data, parts, protocol).draw("test")
    assert equal(kept, [episode for episode, size in zip(episodes, sizes, strict=True) if size >= fewest])
    assert 0 < len(kept) < len(episodes)
    covered = Coverage(data, parts, protocol).covered["test"]
    assert covered.tolist() == sorted({episode.scene for episode in kept})
    protocol = PROTOCOL.model_copy(update={"min_queries": 1000})
    with pytest.raises(InputError, match=r"a later query of each of 1000 users.*set protocol\.min_queries = 1"):
        EpisodeSampler(data, parts, protocol).sample("test")


def later_rows(data: Dataset, parts: Split, episode: Episode) -> np.ndarray:
    """The rows of an episode's scene after its support, while it is open."""
    closes = min(episode.opened + round(PROTOCOL.window_days * DAY), parts.period["test"][1])
    last = int(data.time[episode.rows[-1]])
    return np.flatnonzero((data.scene == episode.scene) & (data.time > last) & (data.time < closes))


@pytest.mark.parametrize(
    ("rows", "split_by", "short_lived"), [(80, "hash", True), (6, "hash", False), (6, "opening", False)]
)
def test_too_few_episodes_are_told_with_the_cause_and_remedies_that_work(
    rows: int, split_by: str, *, short_lived: bool
) -> None:
    """Advice that does not help costs a run each time, and the trust in the next."""
    data = campaigns(rows=rows)
    protocol = PROTOCOL.model_copy(update={"split_by": split_by, "shots": 5, "window_days": 3})
    parts = split_scenes(data, protocol)
    with pytest.raises(InputError) as refused:
        EpisodeSampler(data, parts, protocol).sample("test")
    cause, *advice = str(refused.value).split("; ")
    assert ("live 1" in cause and "fall by hash" in cause) == short_lived
    assert any('protocol.split_by = "opening"' in remedy for remedy in advice) or not short_lived
    for remedy in advice:
        keys = dict(re.findall(r"protocol\.(\w+) = (\S+)", remedy))
        assert keys
        changed = protocol.model_copy(update={key: json.loads(value) for key, value in keys.items()})
        sampler = EpisodeSampler(data, split_scenes(data, changed), changed)
        assert all(sampler.sample(part) for part in SPLIT_NAMES)


def test_a_higher_minimum_is_a_remedy_where_small_scenes_crowd_out_the_others() -> None:
    """Of 140 validation scenes, 114 may be too small to say anything: only other scenes help."""
    data = planted_dataset(scenes=36, per_user=360)
    rows = np.sort(
        np.concatenate([np.flatnonzero(data.scene == code)[: 3 if code % 3 else None] for code in range(36)])
    )
    few = replace(data, **{name: getattr(data, name)[rows] for name in ("user", "item", "scene", "time")})
    protocol = PROTOCOL.model_copy(update={"split": (0.34, 0.33, 0.33)})

    def reselect(_protocol: RankingProtocol, minimum: int | None) -> Dataset:
        return keep_scenes(few, np.flatnonzero(np.bincount(few.scene) >= (minimum or 1)), "few")

    def most(part: SplitName, covered: int, scenes: int) -> bool:
        return enough_for_a_mean(part, covered, scenes) and covered > 0.9 * scenes

    (advice,) = Coverage(few, split_scenes(few, protocol), protocol).remedies(reselect, most)
    minimum = int(advice.removeprefix("set data.min_interactions = "))
    kept = reselect(protocol, minimum)
    assert len(kept.scenes) == 12
    assert Coverage(kept, split_scenes(kept, protocol), protocol).suffices(most)


def test_scenes_that_all_start_together_are_not_split_by_when_they_start() -> None:
    """Their training period would be empty."""
    data = planted_dataset()
    times = data.time.copy()
    times[np.unique(data.scene, return_index=True)[1]] = 0
    together, by_start = replace(data, time=times), PROTOCOL.model_copy(update={"split_by": "opening"})
    with pytest.raises(InputError, match=r'too many scenes start at the same time.*protocol\.split_by = "hash"'):
        split_scenes(together, by_start)


def test_the_timeline_cuts_the_periods_where_the_protocol_says(data: Dataset) -> None:
    """Fractions applied to rows in place of time would move the cut in a shop that grows."""
    begin, end = int(data.time[0]), int(data.time[-1]) + 1
    parts = split_scenes(data, PROTOCOL.model_copy(update={"timeline": (0.5, 0.75)}))
    cuts = [parts.period[part][1] for part in SPLIT_NAMES]
    assert cuts == [begin + round(0.5 * (end - begin)), begin + round(0.75 * (end - begin)), end]


def test_seeds_give_different_splits(data: Dataset) -> None:
    """A seed that is ignored would make "five seeds" one split five times."""
    splits = {
        tuple(split_scenes(data, PROTOCOL.model_copy(update={"seed": s})).scenes["test"].tolist()) for s in range(8)
    }
    assert len(splits) > 4


@pytest.mark.parametrize(
    ("scenes", "said"),
    [
        (1, r"1 scene leaves 1 for meta-train, which needs at least 4"),
        (10, r"10 scenes leave 2 for meta-validation, which needs at least 3"),
        (8, r"8 scenes leave 2 for meta-train, which needs at least 4"),
    ],
)
def test_too_few_scenes_for_a_part_are_refused_with_the_numbers(scenes: int, said: str) -> None:
    """A mean over one or two scenes is noise with a name."""
    fractions = (0.34, 0.33, 0.33) if scenes == 8 else (0.6, 0.2, 0.2)
    with pytest.raises(InputError, match=said):
        split_scenes(named_scenes(scenes), RankingProtocol(split=fractions, window_days=1))


def test_a_period_shorter_than_one_window_is_refused_with_the_remedy(data: Dataset) -> None:
    """Otherwise windows would reach into the next period without a word."""
    protocol = PROTOCOL.model_copy(update={"window_days": 80})
    with pytest.raises(InputError, match=r"the validation period is 73\.\d days long.*window of 80 days; shorten"):
        split_scenes(data, protocol)


def test_scenes_without_enough_interactions_are_refused_with_the_remedy(data: Dataset, parts: Split) -> None:
    """A validation of no episodes would be a recall of nothing."""
    protocol = PROTOCOL.model_copy(update={"shots": 10_000})
    said = r"only 0 of 3 meta-validation scenes see 10000 interactions.*have too few interactions.*protocol\.shots = "
    with pytest.raises(InputError, match=said):
        EpisodeSampler(data, parts, protocol).sample("validation")


def test_an_episode_moves_to_a_device_whole(sampler: EpisodeSampler) -> None:
    """A tensor left behind fails on the first GPU, where no test of a laptop looks."""
    moved = sampler.sample("test")[0].to(torch.device("meta"))
    assert {value.device.type for value in vars(moved).values() if isinstance(value, torch.Tensor)} == {"meta"}
    assert sum(isinstance(value, torch.Tensor) for value in vars(moved).values()) == 18
