"""Episodes of classification: which classes and texts they have, that they stay, and that the audit finds leaks."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from storage.errors import InputError
from studies.classification.data.dataset import LabelledTexts
from studies.classification.episode import LabelledEpisode
from studies.classification.protocol import ClassificationProtocol
from studies.classification.sampling.audit import audit_labelled, audit_labelled_episodes
from studies.classification.sampling.sampler import LabelledSampler
from studies.classification.sampling.sides import FREE, divide, divisible
from studies.classification.sampling.split import ClassSplit, split_classes
from studies.episodes.split import SPLIT_NAMES, SplitName
from tests.labelled import coded, planted_texts

PROTOCOL = ClassificationProtocol(ways=4, shots=3, queries=2, episodes=30, train_episodes=40)
DATA = planted_texts()
SPLIT = split_classes(DATA, PROTOCOL)
SAMPLER = LabelledSampler(DATA, SPLIT, PROTOCOL)


def equal(one: LabelledEpisode, other: LabelledEpisode) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def leaks(
    data: LabelledTexts, split: ClassSplit, episodes: list[LabelledEpisode], name: SplitName = "test"
) -> set[str]:
    return {found.check for found in audit_labelled_episodes(data, split, name, episodes) if found.status == "leak"}


@pytest.mark.parametrize("name", SPLIT_NAMES)
def test_an_episode_has_ways_shots_and_queries_of_its_splits_classes(name: SplitName) -> None:
    """The labels are positions in `classes`; texts and labels of another order would train on noise."""
    episodes = SAMPLER.sample(name)
    assert len(episodes) == (40 if name == "train" else 30)
    assert [episode.name for episode in episodes[:2]] == ["episode 0", "episode 1"]
    label_of = dict(zip(DATA.text.tolist(), DATA.label.tolist(), strict=True))
    for episode in episodes:
        assert (episode.ways, episode.shots) == (4, 3)
        assert set(episode.classes.tolist()) <= set(SPLIT.classes[name].tolist())
        assert len(set(episode.classes.tolist())) == 4
        assert episode.support_labels.bincount().tolist() == [3] * 4
        assert episode.query_labels.bincount().tolist() == [2] * 4
        assert episode.items.tolist() == sorted(set(episode.items.tolist()))
        assert len(episode.items) == 4 * (5 + 1)
        named = [DATA.texts[text] for text in episode.items[episode.names].tolist()]
        assert named == [DATA.labels[code] for code in episode.classes.tolist()]
        for places, labels in ((episode.support, episode.support_labels), (episode.query, episode.query_labels)):
            found = [label_of[text] for text in episode.items[places].tolist()]
            assert found == episode.classes[labels].tolist()
    assert leaks(DATA, SPLIT, episodes, name) == set()


def test_no_group_and_no_text_is_on_both_sides_even_where_classes_share_groups() -> None:
    """A twin of a labelled product among the queries measures copying."""
    rows = [(f"{label} {number}", label) for label in "abcdef" for number in range(12)]
    shared = coded(*rows, group=[f"g{number % 4}" for _ in "abcdef" for number in range(12)])
    protocol = ClassificationProtocol(ways=2, shots=3, queries=3, split=(0.34, 0.33, 0.33), episodes=50)
    split = split_classes(shared, protocol)
    episodes = LabelledSampler(shared, split, protocol).sample("test")
    assert leaks(shared, split, episodes) == set()
    group_of = dict(zip(shared.text.tolist(), shared.group.tolist(), strict=True))
    sides = [{group_of[text] for text in episode.items[episode.support].tolist()} for episode in episodes]
    assert len({tuple(sorted(groups)) for groups in sides}) > 4, "the sides of the groups are drawn anew"


def test_episodes_are_functions_of_seed_split_draw_and_number() -> None:
    """Paired comparisons, resumed studies and other machines need the very same episodes."""
    again = LabelledSampler(DATA, SPLIT, PROTOCOL)
    again.sample("train")
    assert all(map(equal, SAMPLER.sample("test"), again.sample("test")))
    fewer = PROTOCOL.model_copy(update={"episodes": 7})
    assert all(map(equal, LabelledSampler(DATA, SPLIT, fewer).sample("test"), SAMPLER.sample("test")[:7]))
    redrawn = SAMPLER.sample("test", draw=1)
    assert redrawn[0].name == "episode 0 of draw 1"
    distinct = {tuple(episode.items.tolist()) for episode in [*SAMPLER.sample("test"), *redrawn]}
    assert len(distinct) == 60
    other = PROTOCOL.model_copy(update={"seed": 1})
    assert not equal(LabelledSampler(DATA, SPLIT, other).sample("test")[0], SAMPLER.sample("test")[0])


def test_nested_episodes_differ_in_the_size_of_the_support_only() -> None:
    """A curve over shots must not mix what labels add with which queries were drawn."""
    nested = SAMPLER.nested("test", [1, 4, 8, 200])
    assert list(nested) == [1, 4, 8], "no class has 200 texts"
    for small, large in itertools.pairwise(nested.values()):
        assert len(small) == len(large) == 30
        for one, other in zip(small, large, strict=True):
            assert (one.name, one.classes.tolist()) == (other.name, other.classes.tolist())
            assert one.items[one.query].tolist() == other.items[other.query].tolist()
            first = other.items[other.support].view(4, -1)[:, : one.shots]
            assert one.items[one.support].tolist() == first.flatten().tolist()
    for shots, episodes in nested.items():
        assert {episode.shots for episode in episodes} == {shots}
        assert leaks(DATA, SPLIT, episodes) == set()


def test_the_ways_of_an_episode_are_classes_of_one_scene() -> None:
    """A department's categories are harder to tell apart than one of each department."""
    data = planted_texts(classes=64, scenes=True)
    protocol = PROTOCOL.model_copy(update={"ways": 2})
    split = split_classes(data, protocol)
    episodes = LabelledSampler(data, split, protocol).sample("test")
    assert leaks(data, split, episodes) == set()
    assert len({episode.scene for episode in episodes}) > 3
    for episode in episodes:
        nouns = {data.labels[code].split()[1] for code in episode.classes.tolist()}
        assert nouns == {data.scenes[episode.scene]}


def test_classes_are_split_disjointly_and_stay_when_others_are_added() -> None:
    """A test class of last month must not be a training class of this one."""
    codes = np.concatenate([SPLIT.classes[name] for name in SPLIT_NAMES])
    assert sorted(codes) == list(range(30))
    assert [len(SPLIT.classes[name]) for name in SPLIT_NAMES] == [18, 6, 6]
    more = planted_texts(classes=33)
    larger = split_classes(more, PROTOCOL)
    kept = {DATA.labels[code] for code in SPLIT.classes["train"]}
    assert len(kept & {more.labels[code] for code in larger.classes["train"]}) >= 15


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=7),
    support=st.integers(1, 8),
    query=st.integers(1, 8),
    fixed=st.lists(st.sampled_from([FREE, FREE, 0, 1]), min_size=7, max_size=7),
    seed=st.integers(0, 99),
)
def test_a_class_is_divided_wherever_it_can_be(
    sizes: list[int], support: int, query: int, fixed: list[int], seed: int
) -> None:
    """A class that is refused although a division exists would be missing from every figure."""
    array, places = np.array(sizes), np.array(fixed[: len(sizes)])
    sides = [np.array(side, dtype=bool) for side in itertools.product([False, True], repeat=len(sizes))]
    good = [side for side in sides if array[side].sum() >= support and array[~side].sum() >= query]
    assert divisible(array, support, query) == bool(good)
    allowed = [side for side in good if ((places == FREE) | (places == side)).all()]
    side = divide(array, places, support, query, np.random.default_rng(seed))
    assert (side is not None) == bool(allowed)
    assert side is None or any((side == other).all() for other in allowed)


def test_what_the_protocol_cannot_give_is_refused_with_a_remedy_that_works() -> None:
    """More ways than classes would otherwise repeat a class, or fail in a worker."""
    with pytest.raises(InputError, match=r"30 classes leave 6 for validation.*protocol\.ways = 10; lower .* to 6"):
        split_classes(DATA, ClassificationProtocol())
    six = ClassificationProtocol(ways=6)
    assert LabelledSampler(DATA, split_classes(DATA, six), six).sample("validation")
    scenes = planted_texts(classes=64, scenes=True)
    wide = PROTOCOL.model_copy(update={"ways": 5})
    with pytest.raises(
        InputError, match=r"no scene has protocol\.ways = 5 test classes with 3 \+ 2 .*ways to (\d)"
    ) as e:
        LabelledSampler(scenes, split_classes(scenes, wide), wide).sample("test")
    fewer = wide.model_copy(update={"ways": int(str(e.value).split("protocol.ways to ")[1][0])})
    assert LabelledSampler(scenes, split_classes(scenes, fewer), fewer).sample("test")
    # Wherever two of the three groups are, two are on one side.
    tied = coded(*[(f"{label} {n}", label) for label in "abc" for n in range(2)], group=[*"vwwxxv"])
    split = ClassSplit({"train": np.arange(3), "validation": np.arange(3), "test": np.arange(3)})
    three = ClassificationProtocol(ways=3, shots=1, queries=1)
    with pytest.raises(InputError, match=r"no 3 test classes of one scene .*lower protocol\.ways, name a finer column"):
        LabelledSampler(tied, split, three).sample("test")
    two = three.model_copy(update={"ways": 2})
    assert LabelledSampler(tied, split, two).sample("test")


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"ways": 1}, "ways"), ({"split": [0.5, 0.2, 0.2]}, "add up to 1"), ({"report_shots": [5, 1]}, "must increase")],
)
def test_a_protocol_that_means_nothing_is_refused(keys: dict[str, object], message: str) -> None:
    """The study file is where it is cheapest to say."""
    with pytest.raises(ValidationError, match=message):
        ClassificationProtocol.model_validate(keys)


def test_the_audit_finds_every_kind_of_leak_in_an_episode() -> None:
    """An audit that passes what it should stop is worse than none."""
    (good, other) = SAMPLER.sample("test")[:2]
    train = SAMPLER.sample("train")[0]
    assert leaks(DATA, SPLIT, [train]) == {"classes outside their split"}
    swapped = replace(good, query_labels=good.query_labels.flip(0))
    assert leaks(DATA, SPLIT, [other, swapped]) == {"labels or scenes that the rows do not have"}
    copied = replace(good, query=good.support[:8], query_labels=good.support_labels[:8])
    assert leaks(DATA, SPLIT, [copied]) == {"texts on both sides of an episode", "groups on both sides of an episode"}
    group_of = dict(zip(DATA.text.tolist(), DATA.group.tolist(), strict=True))
    label_of = dict(zip(DATA.text.tolist(), DATA.label.tolist(), strict=True))
    held = set(good.items.tolist())
    twin = next(
        text
        for text in DATA.text[DATA.group == group_of[int(good.items[good.support[0]])]].tolist()
        if text not in held and label_of[text] == good.classes[0]
    )
    misnamed = replace(good, names=good.names.flip(0))
    assert leaks(DATA, SPLIT, [misnamed]) == {"names of other classes"}
    items = torch.cat([good.items, torch.tensor([twin])])
    shared = replace(good, items=items, query=torch.tensor([len(held)]), query_labels=torch.tensor([0]))
    assert leaks(DATA, SPLIT, [shared]) == {"groups on both sides of an episode"}
    (finding,) = [f for f in audit_labelled_episodes(DATA, SPLIT, "test", [other, swapped]) if f.status == "leak"]
    assert finding.detail == "1 of 2 test episodes, the first episode 0"


def test_the_audit_of_the_data_finds_classes_texts_and_spellings_in_two_splits() -> None:
    """Each makes a held-out class a known one."""
    data = coded(("A 1", "Tea"), ("a  1", "tea"), ("c", "mug"), ("d", "cup"), group=["x", "x", "y", None])
    codes = {label: code for code, label in enumerate(data.labels)}

    def found(train: list[str], test: list[str], changed: LabelledTexts = data) -> dict[str, tuple[str, str]]:
        classes = {"train": train, "validation": [], "test": test}
        split = ClassSplit({name: np.array([codes[c] for c in classes[name]], dtype=np.int64) for name in SPLIT_NAMES})
        return {f.check: (f.status, f.detail) for f in audit_labelled(changed, split)}

    twice = found(["Tea", "mug"], ["tea", "cup"])
    assert twice["classes shared between splits"] == ("leak", 'class "tea" is in test and in train')
    assert twice["texts in two splits"][0] == "ok"
    status, detail = twice["equal texts with other labels"]
    assert status == "note"
    assert detail.startswith("2 of 4 labelled texts equal one of another class but for letter case and spaces, such as")
    assert twice["held-out groups seen in training"] == (
        "note",
        "100% of the groups of test classes have texts of training classes",
    )
    apart = found(["Tea", "tea"], ["mug", "cup"])
    assert [status for status, _ in apart.values()] == ["ok", "ok", "note", "ok"]
    both = replace(data, text=np.array([0, 0, 2, 3]), label=np.array([codes["mug"], codes["cup"], 2, 3]))
    assert found(["mug"], ["cup"], both)["texts in two splits"][0] == "leak"


def test_queries_that_equal_a_labelled_text_but_for_letter_case_are_counted() -> None:
    """Most encoders read no letter case: to them such a query is in the support."""
    rows = [(text, label) for label in "abcdef" for n in range(3) for text in (f"{label} {n}", f"{label.upper()}  {n}")]
    data, protocol = coded(*rows), ClassificationProtocol(ways=2, shots=2, queries=2, split=(0.34, 0.33, 0.33))
    split = split_classes(data, protocol)
    episodes = LabelledSampler(data, split, protocol).sample("test")
    finding = audit_labelled_episodes(data, split, "test", episodes)[-1]
    assert finding.status == "note"
    assert finding.detail.endswith("letter case and spaces only; write texts in one way")
