"""The leakage audit must stay silent on honest data and catch every leak that is planted."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from storage.errors import InputError
from studies.config.protocol_section import RankingProtocol
from studies.data.coding import build_dataset
from studies.data.dataset import Dataset, keep_first_interactions
from studies.data.source import Tables
from studies.episodes.audit import Finding, audit_data, audit_episodes, refuse_leaks
from studies.episodes.episode import Episode
from studies.episodes.sampler import EpisodeSampler
from studies.episodes.split import DAY, SPLIT_NAMES, Split, split_scenes
from studies.training.prepare import prepare
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

PROTOCOL = RankingProtocol(shots=3, k=5, history=4, queries=6, split=(0.5, 0.25, 0.25), train_openings=4)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return planted_dataset()


@pytest.fixture(scope="module")
def parts(data: Dataset) -> Split:
    return split_scenes(data, PROTOCOL)


@pytest.fixture(scope="module")
def episodes(data: Dataset, parts: Split) -> list[Episode]:
    return EpisodeSampler(data, parts, PROTOCOL).sample("test")


def leaks(findings: list[Finding]) -> set[str]:
    return {finding.check for finding in findings if finding.status == "leak"}


@pytest.mark.parametrize(("repeat", "candidates"), [("allow", "scene"), ("exclude", "scene"), ("allow", "all")])
def test_honest_data_and_episodes_pass(data: Dataset, repeat: str, candidates: str) -> None:
    """An audit that cries wolf is switched off."""
    protocol = PROTOCOL.model_copy(update={"repeat": repeat, "candidates": candidates})
    shop = keep_first_interactions(data) if repeat == "exclude" else data
    parts = split_scenes(shop, protocol)
    sampler = EpisodeSampler(shop, parts, protocol)
    assert leaks(audit_data(shop, parts)) == set()
    for part in SPLIT_NAMES:
        found = audit_episodes(shop, parts, protocol, part, sampler.sample(part))
        assert leaks(found) == set()
        assert len({finding.check for finding in found}) == 6
        for nested in sampler.nested(part, [1, 4]).values():
            assert leaks(audit_episodes(shop, parts, protocol, part, nested)) == set()


def fewer_shots(episode: Episode, data: Dataset) -> Episode:
    """Drops the first support interaction, so that the support is not what came first."""
    return replace(
        episode,
        support=episode.support[1:],
        rows=episode.rows[1:],
        support_history=episode.support_history[1:],
        support_past=episode.support_past[1:],
        support_past_total=episode.support_past_total[1:],
    )


def wrong_item(episode: Episode, data: Dataset) -> Episode:
    """Says that the support took another item."""
    return replace(episode, support=(episode.support + 1) % episode.candidates)


def answer_from_nowhere(episode: Episode, data: Dataset) -> Episode:
    """Calls relevant what the user never took."""
    return replace(episode, relevant=torch.ones_like(episode.relevant))


def support_as_answers(episode: Episode, data: Dataset) -> Episode:
    """Asks the support's own users for what they took in the support."""
    relevant = torch.zeros(len(episode.support), episode.candidates, dtype=torch.bool)
    relevant[torch.arange(len(episode.support)), episode.support] = True
    users = torch.from_numpy(data.user[episode.rows.numpy()])
    nothing = torch.zeros_like(relevant)
    return replace(
        episode,
        relevant=relevant,
        excluded=nothing,
        users=users,
        query_history=episode.support_history,
        query_past=episode.support_past,
        query_past_total=episode.support_past_total,
    )


def over_all_items(episode: Episode) -> Episode:
    """The episode with a column of histories for each of its items."""
    wide = {
        name: torch.zeros(len(counts), len(episode.items)).index_copy_(1, episode.held, counts)
        for name, counts in {"support_history": episode.support_history, "query_history": episode.query_history}.items()
    }
    return replace(episode, held=torch.arange(len(episode.items)), **wide)


def answers_in_history(episode: Episode, data: Dataset) -> Episode:
    """Shows each query's answers in its history."""
    whole = over_all_items(episode)
    whole.query_history[:, : episode.candidates] += episode.relevant
    return whole


def label_in_history(episode: Episode, data: Dataset) -> Episode:
    """Shows each support user what they are about to take."""
    whole = over_all_items(episode)
    whole.support_history[torch.arange(len(episode.support)), episode.support] += 1
    return whole


def another_held_out_scene(episode: Episode, data: Dataset) -> Episode:
    """Puts an item of another test scene, which the user did take before, into a history."""
    user, adapted = int(episode.users[0]), data.time[episode.rows[-1]]
    mine = set(episode.items.tolist())
    other = split_scenes(data, PROTOCOL).held_out
    rows = np.flatnonzero((data.user == user) & (data.time < adapted) & np.isin(data.scene, other))
    foreign = next(int(data.item[row]) for row in rows if int(data.item[row]) not in mine)
    column = torch.zeros(len(episode.query_history), 1)
    column[0] = 1
    return replace(
        episode,
        items=torch.cat([episode.items, torch.tensor([foreign])]),
        held=torch.cat([episode.held, torch.tensor([len(episode.items)])]),
        query_history=torch.cat([episode.query_history, column], dim=1),
        support_history=torch.cat([episode.support_history, torch.zeros(len(episode.support), 1)], dim=1),
    )


def opens_in_training(episode: Episode, data: Dataset) -> Episode:
    """Opens in the training period."""
    return replace(episode, opened=int(data.time[0]))


def answers_had_before(episode: Episode, data: Dataset) -> Episode:
    """Excludes from the ranking what is then asked for."""
    return replace(episode, excluded=episode.relevant)


@pytest.mark.parametrize(
    ("plant", "check"),
    [
        (fewer_shots, "support not the first interactions"),
        (wrong_item, "support not the first interactions"),
        (answer_from_nowhere, "support later than query"),
        (support_as_answers, "support later than query"),
        (answers_in_history, "history reaching past an interaction"),
        (label_in_history, "history reaching past an interaction"),
        (another_held_out_scene, "history reaching past an interaction"),
        (opens_in_training, "episodes outside their split"),
        (answers_had_before, "items common to support and query"),
    ],
)
def test_a_leak_planted_in_episodes_is_found(
    data: Dataset,
    parts: Split,
    episodes: list[Episode],
    plant: Callable[[Episode, Dataset], Episode],
    check: str,
) -> None:
    """Each of these would lift every recall of the study and look like progress."""
    # An answer taken from the support may by chance be taken again later: some episode shows it.
    found = audit_episodes(data, parts, PROTOCOL, "test", [plant(episode, data) for episode in episodes])
    assert check in leaks(found)
    with pytest.raises(InputError, match=r"leakage audit: .* hpo data check"):
        refuse_leaks(found)


def taken_on(rows: np.ndarray, episode: Episode, data: Dataset) -> Episode:
    """Counts some interactions more elsewhere."""
    more = np.bincount(data.item[rows], minlength=len(data.texts))[episode.items[: episode.candidates].numpy()]
    return replace(episode, elsewhere=episode.elsewhere + torch.from_numpy(more)[:, None])


def test_a_leak_planted_in_what_is_known_elsewhere_is_found(data: Dataset, parts: Split) -> None:
    """What sells after the opening, in the scene itself or in other test scenes, is what the queries ask for."""
    protocol = PROTOCOL.model_copy(update={"candidates": "all"})
    honest = EpisodeSampler(data, parts, protocol).sample("test")[0]

    def found(episode: Episode) -> set[str]:
        return leaks(audit_episodes(data, parts, protocol, "test", [episode]))

    assert found(honest) == set()
    before = data.time < honest.opened // DAY * DAY
    train = np.isin(data.scene, parts.scenes["train"])
    today = (data.time // DAY == honest.opened // DAY) & train
    assert today.any()
    for rows in (today, before & (data.scene == honest.scene), before & np.isin(data.scene, parts.held_out)):
        assert found(taken_on(np.flatnonzero(rows), honest, data)) == {"popularity reaching past an opening"}
    for role in ("support_past", "query_past"):
        later = getattr(honest, role) + 1
        assert found(replace(honest, **{role: later})) == {"history reaching past an interaction"}


def test_a_scene_written_two_ways_in_two_parts_is_a_leak(data: Dataset, parts: Split) -> None:
    """If "Tea" is in training and "tea " in test, one scene is tested on what it was trained on."""
    names = list(data.scenes)
    train, test = int(parts.scenes["train"][0]), int(parts.scenes["test"][0])
    names[test] = f" {names[train].upper()}"
    found = audit_data(replace(data, scenes=tuple(names)), parts)
    assert leaks(found) == {"scenes shared between splits"}
    assert f"{names[test]!r} is in meta-test and meta-train" in next(f.detail for f in found if f.status == "leak")


def copied(share: float) -> Dataset:
    """A planted shop in which a share of one test scene's purchases is logged in a training scene as well."""
    rng = np.random.default_rng(0)
    scenes = [f"store {n}" for n in range(12)]
    count = 6000
    rows = pl.DataFrame(
        {
            "user": rng.integers(0, 40, count),
            "product": rng.integers(0, 30, count),
            "time": rng.integers(0, 365 * 86_400, count),
            "scene": rng.choice(scenes, count),
        }
    )
    items = pl.DataFrame({"product": range(30), "text": [f"thing {n}" for n in range(30)]})
    first = build_dataset(Tables(rows, items, count))
    parts = split_scenes(first, PROTOCOL)
    train, test = (first.scenes[int(parts.scenes[part][0])] for part in ("train", "test"))
    copies = rows.filter(pl.col("scene") == test).sample(fraction=share, seed=1).with_columns(scene=pl.lit(train))
    return build_dataset(Tables(pl.concat([rows, copies]), items, count + len(copies)))


@pytest.mark.parametrize(("share", "status"), [(0.0, "ok"), (0.01, "note"), (0.9, "leak")])
def test_purchases_copied_from_a_test_scene_into_a_training_scene_are_found(share: float, status: str) -> None:
    """A category tree logged at two levels puts every test answer into training under another name."""
    data = copied(share)
    found = {f.check: f for f in audit_data(data, split_scenes(data, PROTOCOL))}
    assert found["interactions in two splits"].status == status
    # Stores share their items by nature, which is said but is no leak.
    assert found["held-out texts seen in training"].status == "note"


@pytest.mark.parametrize(("share", "status"), [(0.05, "note"), (0.9, "leak")])
def test_in_whole_days_a_coupon_of_two_campaigns_is_no_copy_of_a_scene(share: float, status: str) -> None:
    """A study of campaigns would be refused for the few coupons that two of them offer on one day."""
    data = copied(share)
    data = replace(data, time=data.time // 86_400 * 86_400)
    order = np.lexsort((data.scene, data.item, data.user, data.time))
    data = replace(data, **{name: getattr(data, name)[order] for name in ("time", "user", "item", "scene")})
    found = {f.check: f for f in audit_data(data, split_scenes(data, PROTOCOL))}
    assert found["interactions in two splits"].status == status


def test_scenes_split_by_when_they_start_pass_and_what_breaks_their_periods_is_found(data: Dataset) -> None:
    """The end of a period cuts a window short; an answer from beyond it is the future of what is learned."""
    protocol = PROTOCOL.model_copy(update={"split_by": "opening"})
    late = {code: n * 30 * 86_400 for n, code in enumerate(range(len(data.scenes)))}
    times = data.time // 12 + np.array([late[code] for code in data.scene])
    order = np.lexsort((data.scene, data.item, data.user, times))
    shop = replace(data, **{n: getattr(data, n)[order] for n in ("user", "item", "scene")}, time=times[order])
    parts = split_scenes(shop, protocol)
    assert leaks(audit_data(shop, parts)) == set()
    sampler = EpisodeSampler(shop, parts, protocol)
    train = sampler.sample("train")
    assert leaks(audit_episodes(shop, parts, protocol, "train", train)) == set()
    shorter = replace(parts, period=parts.period | {"train": (parts.period["train"][0], train[-1].opened + 1)})
    assert "episodes outside their split" in leaks(audit_episodes(shop, shorter, protocol, "train", train))
    begin, end = parts.period["train"]
    sooner = replace(parts, period=parts.period | {"train": (begin, end - 20 * 86_400)})
    assert "support later than query" in leaks(audit_episodes(shop, sooner, protocol, "train", train))
    early = replace(shop, time=np.where(shop.scene == parts.scenes["test"][0], 0, shop.time))
    assert "periods in order" in leaks(audit_data(early, parts))


def test_periods_that_overlap_are_a_leak(data: Dataset, parts: Split) -> None:
    """Training into the test period is learning from the future."""
    overlapping = replace(parts, period=parts.period | {"train": (0, parts.period["test"][0])})
    assert leaks(audit_data(data, overlapping)) == {"periods in order"}


def test_every_study_runs_the_audit(data: Dataset, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit that only a command runs is one that nobody runs."""
    spec = tiny_spec(tiny_encoder(tmp_path / "encoder"))
    problem = prepare(spec, tmp_path / "cache", data=data)
    honest = EpisodeSampler.sample
    monkeypatch.setattr(
        EpisodeSampler, "sample", lambda self, *what: [answers_in_history(e, data) for e in honest(self, *what)]
    )
    with pytest.raises(InputError, match="leakage audit: history reaching past an interaction"):
        _ = problem.validation
    names = list(data.scenes)
    names[int(problem.split.scenes["test"][0])] = names[int(problem.split.scenes["train"][0])] + " "
    # The split goes by names, so a seed under which the two land in different parts again.
    renamed = replace(data, scenes=tuple(names))
    seeds = (
        seed
        for seed in range(50)
        if leaks(audit_data(renamed, split_scenes(renamed, spec.protocol.model_copy(update={"seed": seed}))))
    )
    seeded = tiny_spec(tmp_path / "encoder", protocol={"seed": next(seeds)})
    with pytest.raises(InputError, match="leakage audit: scenes shared between splits"):
        prepare(seeded, tmp_path / "cache", data=renamed)
