"""How alike texts are by their words, against scikit-learn's own TF-IDF and plain counting."""

import math
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer

from studies.config.protocol_section import RankingProtocol
from studies.episodes.sampler import EpisodeSampler
from studies.episodes.split import split_scenes
from studies.episodes.tfidf import BUCKETS, Lexicon, count_words, overlap
from studies.episodes.words import split_words
from tests.synthetic import planted_dataset

TEXTS = ["green tea, 20 bags", "black tea, 20 bags", "green apple", "Green tea, loose", "tea", ""]


# Scripts with spaces between words: Latin, Greek, Cyrillic, Hebrew, Arabic, Devanagari, Korean.
SPACED = st.characters(codec="utf-8", max_codepoint=0xDFF) | st.sampled_from("빨간 운동화 “–” €")


@given(st.lists(st.text(SPACED), min_size=1))
def test_words_fall_into_the_buckets_of_scikit_learns_hashing(texts: list[str]) -> None:
    """An export's lexicon counts buckets: words that move to others would make every weight of it another word's."""
    reference = HashingVectorizer(
        token_pattern=r"\S+", ngram_range=(1, 2), n_features=BUCKETS, alternate_sign=False, norm=None
    )
    assert [split_words(text) for text in texts] == [text.split() for text in texts]
    assert (count_words(texts) != reference.transform(texts)).nnz == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Nike 跑鞋 42码", "Nike 跑 鞋 42 码"),
        ("经典红色跑鞋，防水（男）", "经 典 红 色 跑 鞋 防 水 男"),
        ("赤いスニーカー・メンズ「新」", "赤 い ス ニ ー カ ー メ ン ズ 新"),
        ("葛󠄀粉", "葛󠄀 粉"),  # with a variation selector
        ("รองเท้าวิ่งสีแดง ชาย", "ร อ ง เ ท้ า วิ่ ง สี แ ด ง ช า ย"),
        ("ເກີບສີແດງ", "ເ ກີ ບ ສີ ແ ດ ງ"),
        ("ផ្កា\u200bក្រហម", "ផ្ កា ក្ រ ហ ម"),
        ("အနီ ဖိနပ်", "အ နီ ဖိ န ပ်"),
        ("빨간 운동화, 42", "빨간 운동화, 42"),
        ("Zapato “rojo”, café – 42", "Zapato “rojo”, café – 42"),
        ("", ""),
    ],
)
def test_words_are_characters_where_a_script_has_no_spaces(text: str, words: str) -> None:
    """One word for a whole title is shared with no other: every two titles would be as unlike as any."""
    assert split_words(text) == words.split()


@pytest.mark.parametrize(
    "titles",
    [
        ("经典红色跑鞋", "经典蓝色跑鞋", "华为手机壳"),
        ("赤いスニーカー", "青いスニーカー", "炊飯器"),
        ("รองเท้าวิ่งสีแดง", "รองเท้าวิ่งสีฟ้า", "หม้อหุงข้าว"),
        ("빨간 운동화", "파란 운동화", "전기 밥솥"),
        ("Nike 红色跑鞋 42", "Nike 蓝色跑鞋 42", "保温杯"),
    ],
)
def test_two_colours_of_an_article_are_alike_and_not_the_same(titles: tuple[str, str, str]) -> None:
    """Similar words draw a new colour up the list; equal ones could not tell it from what the support took."""
    counts = count_words(titles)
    own, colour, other = overlap(Lexicon.of(counts).weigh(counts, counted=True), np.array([0]))[0]
    assert own == pytest.approx(1)
    assert 0.2 < colour < 0.9
    assert other < colour / 4


def test_workers_and_served_students_do_without_scikit_learn() -> None:
    """Imported anywhere on their way, it and the pandas behind it would cost each of these processes seconds."""
    code = (
        "import sys, hpo.workers.worker, hpo.search.loop, studies.training.objective, distill.inference\n"
        "from studies.episodes.tfidf import count_words\n"
        "count_words(['green tea'])\n"
        "print({'sklearn', 'pandas', 'scipy.stats'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_overlap_equals_scikit_learns_tfidf_cosine_of_words_and_pairs() -> None:
    """Hashing, idf or lengths of our own invention would be a straw man under a famous name."""
    counts = count_words(TEXTS)
    found = overlap(Lexicon.of(counts).weigh(counts, counted=True), np.array([0, 3]))
    matrix = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2)).fit_transform(TEXTS)
    assert found == pytest.approx((matrix[[0, 3]] @ matrix.T).toarray(), abs=1e-6)


def test_a_new_scenes_own_texts_count_in_the_weights() -> None:
    """Every text of a new category says its name: unseen, and so "rare", it would drown all other words."""
    known, scene = ["red lamp", "blue lamp"], ["new kettle red", "new kettle blue", "new kettle steel"]
    found = overlap(Lexicon.of(count_words(known)).weigh(count_words(scene)), np.array([0]))[0]

    def terms(text: str) -> Counter[str]:
        words = text.split()
        return Counter([*words, *(" ".join(pair) for pair in pairwise(words))])

    texts = [terms(text) for text in (*known, *scene)]
    idf = {t: math.log((1 + len(texts)) / (1 + sum(t in other for other in texts))) + 1 for text in texts for t in text}

    def cosine(a: Counter[str], b: Counter[str]) -> float:
        def norm(c: Counter[str]) -> float:
            return math.sqrt(sum((n * idf[t]) ** 2 for t, n in c.items()))

        return sum(a[t] * b[t] * idf[t] ** 2 for t in a) / (norm(a) * norm(b))

    assert found == pytest.approx([cosine(texts[2], text) for text in texts[2:]], abs=1e-6)


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_episodes_overlap_is_that_of_its_support_and_candidates(part: str) -> None:
    """Positions taken for item codes would compare a purchase with another scene's words."""
    data = planted_dataset()
    protocol = RankingProtocol(shots=4, k=5, split=(0.5, 0.25, 0.25))
    parts = split_scenes(data, protocol)
    trained = [data.texts[i] for i in data.items_in(parts.scenes["train"])]
    lexicon = Lexicon.of(count_words(trained))
    for episode in EpisodeSampler(data, parts, protocol).sample(part)[:6]:
        texts = [data.texts[i] for i in episode.items[: episode.candidates].tolist()]
        expected = overlap(lexicon.weigh(count_words(texts), counted=part == "train"), episode.support.numpy())
        assert episode.overlap.numpy() == pytest.approx(expected, abs=1e-6)
        own = [float(row[place]) for row, place in zip(episode.overlap, episode.support.tolist(), strict=True)]
        assert own == pytest.approx([1.0] * 4, abs=1e-5)
