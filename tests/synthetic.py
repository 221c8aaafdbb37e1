"""Small stand-ins that take every real path: a random BERT on disk, a shop with planted tastes, a study of seconds.

The shop's users prefer certain words (a colour, a brand) in every scene, so that reading texts and histories helps
and counting the support does not help much. Everything is a function of its seed.
"""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from studies.config.spec import StudySpec, parse_spec
from studies.data.coding import build_dataset
from studies.data.dataset import Dataset
from studies.data.source import Tables
from studies.episodes.episode import Episode

COLOURS = ("red", "blue", "green", "black", "white", "yellow")
BRANDS = ("acme", "bolt", "corvo", "delta", "elba", "fjord")
SIZES = ("small", "medium", "large")
ROOMS = ("kitchen", "garden", "office", "bath", "attic", "hall", "porch", "cellar")
NOUNS = ("lamp", "chair", "towel", "brush", "clock", "basket", "kettle", "mirror")
WORDS = (*COLOURS, *BRANDS, *SIZES, *ROOMS, *NOUNS)
_CHINESE = (
    "红色蓝色绿色黑色白色黄色顶点闪电乌鸦三角易北峡湾小号中号大号"
    "厨房花园办公浴室阁楼门厅走廊地窖台灯椅子毛巾刷子时钟篮子水壶镜子"
)
SCENES = tuple(f"{room} {noun}" for noun, room in itertools.product(NOUNS, ROOMS))

START = 1_577_836_800  # 2020-01-01, UTC seconds
DAY = 86_400


def in_chinese(text: str) -> str:
    """A text of the planted shop as a Chinese shop writes it: words of two characters, without spaces."""
    places = [WORDS.index(word) for word in text.split()]
    return "".join(_CHINESE[2 * place : 2 * place + 2] for place in places)


def tiny_encoder(folder: Path, words: Iterable[str] = WORDS) -> Path:
    """Saves a random BERT (32 wide, 4 layers) with a WordPiece tokenizer of these words; returns `folder`."""
    from transformers import BertConfig, BertModel, BertTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", *words, *letters, *(f"##{c}" for c in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    BertTokenizer(vocab={token: code for code, token in enumerate(tokens)}).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.1,  # the usual 0.02 leaves all texts nearly alike in a model this small
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


class Oracle:
    """Ranks by what users truly like: on a planted shop no system can be expected to do better.

    Purchases are independent draws, so an item's chance of being among a user's next ones grows with its odds.

    Args:
        odds: (users, items) of taking an item once in its scene.
    """

    def __init__(self, odds: np.ndarray) -> None:
        self.odds = odds

    def scores(self, episode: Episode) -> torch.Tensor:
        """(Q, C) odds."""
        return torch.as_tensor(self.odds)[episode.users][:, episode.items[: episode.candidates]]


def planted_dataset(seed: int = 0, scenes: int = 12, users: int = 60, per_user: int = 120) -> Dataset:
    """The data of `planted_shop`."""
    return planted_shop(seed, scenes, users, per_user)[0]


def planted_shop(
    seed: int = 0, scenes: int = 12, users: int = 60, per_user: int = 120, taste: float = 3.0
) -> tuple[Dataset, Oracle]:
    """A year of a shop whose users prefer one colour and one brand, whatever the scene; and the best possible ranking.

    Args:
        seed: of items, tastes and purchases.
        scenes: number of scenes, at most 64; each has 12 to 20 items.
        users: number of users.
        per_user: purchases of each user, spread over scenes and the year.
        taste: log of how many times likelier a user takes an item of their colour, or brand, than another.
    """
    assert scenes <= len(SCENES)
    rng = np.random.default_rng(seed)
    kinds = np.array(list(itertools.product(range(len(COLOURS)), range(len(BRANDS)), range(len(SIZES)))))
    catalogue = []
    for scene in range(scenes):
        for colour, brand, size in kinds[rng.choice(len(kinds), rng.integers(12, 21), replace=False)]:
            text = f"{COLOURS[colour]} {BRANDS[brand]} {SIZES[size]} {SCENES[scene]}"
            catalogue.append((len(catalogue), SCENES[scene], text, int(colour), int(brand)))
    items = pl.DataFrame(catalogue, schema=["product", "scene", "text", "colour", "brand"], orient="row")
    likes_colour = rng.integers(len(COLOURS), size=(users, 1)) == items["colour"].to_numpy()
    likes_brand = rng.integers(len(BRANDS), size=(users, 1)) == items["brand"].to_numpy()
    odds = np.exp(taste * likes_colour + taste * likes_brand)
    scene_names = items["scene"].to_numpy()
    rows: list[pl.DataFrame] = []
    for name in SCENES[:scenes]:
        mine = np.flatnonzero(scene_names == name)
        for user in range(users):
            chance = odds[user, mine] / odds[user, mine].sum()
            taken = rng.choice(mine, max(1, per_user // scenes), p=chance)
            times = START + rng.integers(0, 365 * DAY, len(taken))
            rows.append(pl.DataFrame({"user": np.full(len(taken), user), "product": taken, "time": times}))
    log = pl.concat(rows)
    data = build_dataset(Tables(log, items.select("product", "scene", "text"), len(log)))
    by_code = np.array(data.user_ids, dtype=int)[:, None], np.array(data.item_ids, dtype=int)[None]
    return data, Oracle(odds[by_code])


def write_shop(data: Dataset, folder: Path) -> None:
    """Writes a shop as its owner would keep it: `purchases.parquet` and `catalogue.csv`, with columns of their own."""
    log = pl.DataFrame(
        {
            "customer": [f"c{data.user_ids[code]}" for code in data.user],
            "sku": [int(data.item_ids[code]) for code in data.item],
            "bought_at": data.time * 1000,
        }
    )
    scene = np.repeat(np.arange(len(data.scenes)), np.diff(data.catalogue_start))
    catalogue = pl.DataFrame(
        {
            "sku": [int(data.item_ids[code]) for code in data.catalogue],
            "department": [data.scenes[code] for code in scene],
            "title": [data.texts[code] for code in data.catalogue],
        }
    )
    log.write_parquet(folder / "purchases.parquet")
    catalogue.write_csv(folder / "catalogue.csv", separator=";")


def tiny_spec(encoder: Path, **overrides: Mapping[str, Any] | str) -> StudySpec:
    """A study of `planted_dataset` that runs in seconds.

    Args:
        encoder: folder of the encoder, such as `tiny_encoder` makes.
        overrides: merged into the sections by name: `tiny_spec(folder, search={"trials": 4}, name="other")`.
    """
    raw: dict[str, Any] = {
        "name": "tiny",
        "data": {"source": "completejourney"},
        "protocol": {
            "shots": 3,
            "k": 5,
            "window_days": 28,
            "history": 8,
            "queries": 8,
            "openings": 5,
            "train_queries": 8,
            "train_openings": 4,
            "split": [0.5, 0.25, 0.25],
        },
        "teacher": {"encoder": str(encoder), "max_tokens": 16},
        "search": {"trials": 3, "space": {"meta_batch_size": [2, 4]}},
        "pruner": {"rungs": [2, 4, 8]},
        "distill": {"trials": 1, "embed_steps": 4, "rank_steps": 4},
    }
    for section, values in overrides.items():
        raw[section] = _merged(raw[section], values) if isinstance(values, Mapping) and section in raw else values
    return parse_spec(raw)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and "low" not in value
        merged[key] = _merged(merged[key], value) if nested else value
    return merged
