"""What a catalogue alone says of its items, against plain counting over pairs of texts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.episodes.catalogue_terms import TERMS, terms, weigh_fields

TEXTS = [
    "soda, cola, 12 oz, national",
    "soda, cola, 12 oz, private",
    "soda, cola, 2 lt, national",
    "soda, lime, 12 oz, national",
    "water",
]


def column(name: str, texts: list[str] = TEXTS, products: np.ndarray | None = None) -> list[float]:
    return terms(texts, products)[:, TERMS.index(name)].tolist()


def test_products_are_logarithms_and_zero_where_they_are_not_to_be_known() -> None:
    """A count in place of its logarithm would drown every other term."""
    products = np.array([1, 2, 30, 4, 1])
    assert column("products", products=products) == pytest.approx(np.log(products).tolist())
    assert column("products") == [0.0] * 5


def test_the_rarest_word_is_the_share_of_texts_that_hold_it() -> None:
    """Counted over occurrences instead of texts, a word that a text repeats would look common."""
    assert column("rarest word") == pytest.approx(np.log([3 / 5, 1 / 5, 1 / 5, 1 / 5, 1 / 5]).tolist())
    assert column("rarest word", ["a a b", "a c", "a b"]) == pytest.approx(np.log([2 / 3, 1 / 3, 2 / 3]).tolist())


def test_variants_of_the_last_field_share_all_that_comes_before_it() -> None:
    """The first two are one soda of two brands."""
    assert column("variants of the last field") == pytest.approx(np.log([2, 2, 1, 1, 1]).tolist())


def test_variants_of_any_field_add_up_over_the_fields() -> None:
    """The first soda has a variant in flavour, one in size and one in brand; none in its first field."""
    assert column("variants of any field") == pytest.approx([3 * math.log(2), *[math.log(2)] * 3, 0])


def test_chinese_and_japanese_texts_have_words_and_fields() -> None:
    """Without a space, each text is one word and one field: the terms would be the same for all of them."""
    texts = ["红色跑鞋，男", "蓝色跑鞋，男", "蓝色跑鞋，女"]
    assert column("rarest word", texts) == pytest.approx(np.log([1 / 3, 2 / 3, 1 / 3]).tolist())
    assert column("variants of the last field", texts) == pytest.approx(np.log([1, 2, 2]).tolist())
    assert terms(["靴、赤", "靴、青"])[:, 2:] == pytest.approx(terms(["靴, 赤", "靴, 青"])[:, 2:])


fields = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(", ".join)


@settings(max_examples=50, deadline=None)
@given(st.lists(fields, min_size=1, max_size=8, unique=True), st.randoms())
def test_terms_go_with_their_text_whatever_the_order(texts: list[str], random: object) -> None:
    """A row at the wrong place would recommend the neighbour."""
    order = list(range(len(texts)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert terms([texts[i] for i in order]) == pytest.approx(terms(texts)[order])
    whole = terms(texts)
    assert np.isfinite(whole).all()
    assert (whole[:, 2:] >= 0).all(), "a text is a variant of itself"


def test_fields_are_alike_by_how_few_texts_share_them() -> None:
    """The brand that all have in common tells nothing; the size that two share tells much."""
    cosine = (weigh_fields(TEXTS) @ weigh_fields(TEXTS).T).toarray()
    assert np.diag(cosine) == pytest.approx(np.ones(5))
    weight = {f: math.log(6 / n) for f, n in {"soda": 4, "cola": 3, "12 oz": 3, "national": 3, "private": 1}.items()}
    shared = sum(weight[f] ** 2 for f in ("soda", "cola", "12 oz"))
    lengths = [math.sqrt(sum(weight[f] ** 2 for f in text.split(", "))) for text in TEXTS[:2]]
    assert cosine[0, 1] == pytest.approx(shared / math.prod(lengths))
    assert cosine[0, 4] == 0
