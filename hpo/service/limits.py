"""What a request may ask for, so that none takes the service's memory or its time.

A text counts once for each place that it has in a request.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hpo.service.refusals import Refusal

MIB = 2**20
# What an explained item counts as, beside an item of a list.
EXPLAINED = 100


@dataclass(frozen=True)
class Limits:
    """The limits of a service.

    Attributes:
        body: Bytes of a request.
        texts: Texts of a request.
        characters: Of a text.
        items: Of a catalogue.
        scenes: That are kept.
        scene_items: Candidates of all scenes that are kept; the last one is kept whatever it has.
        values: Numbers of an answer.
        pairs: Candidates times the texts that are compared with each.
        running: Requests at a time.
        body_seconds: In which a request has to arrive.
    """

    body: int = 8 * MIB
    texts: int = 10_000
    characters: int = 10_000
    items: int = 200_000
    scenes: int = 100
    scene_items: int = 2_000_000
    values: int = 1_000_000
    pairs: int = 20_000_000
    running: int = 256
    body_seconds: float = 30.0

    def check_texts(self, texts: Iterable[str], most: int | None = None) -> None:
        """Refuse too many texts, or one that is too long.

        Args:
            texts: Of the request.
            most: How many are accepted, if another number than `texts`.
        """
        count, accepted = 0, self.texts if most is None else most
        for text in texts:
            count += 1
            if len(text) > self.characters:
                raise Refusal(
                    413,
                    "text too long",
                    f"the text {text[:40]!r}… has {len(text):,} characters; accepted are {self.characters:,}: shorten "
                    "it, or start the service with a higher --max-characters",
                )
        if count > accepted:
            raise Refusal(
                413,
                "too many texts",
                f"the request has {count:,} texts; accepted are {accepted:,}: send several requests, or start the "
                "service with a higher --max-texts",
            )

    def check_items(self, count: int) -> None:
        """Refuse a catalogue of too many items."""
        if count > self.items:
            raise Refusal(
                413,
                "too many items",
                f"the catalogue would have {count:,} items; accepted are {self.items:,}: start the service with a "
                "higher --max-items",
            )

    def check_pairs(self, texts: int, candidates: int, what: str) -> None:
        """Refuse to compare too many texts with too many candidates.

        Args:
            texts: How many are compared.
            candidates: With how many.
            what: They are, and how to ask for fewer.
        """
        if texts * candidates > self.pairs:
            raise Refusal(
                413,
                "too much to compare",
                f"the request has {texts:,} {what}; accepted are {self.pairs // candidates:,} with {candidates:,} "
                "candidates",
            )

    def check_values(self, values: int, what: str) -> None:
        """Refuse an answer that would hold too much.

        Args:
            values: How many numbers.
            what: What they are of, and how to ask for fewer.
        """
        if values > self.values:
            raise Refusal(
                413, "answer too long", f"the answer would hold {values:,} {what}; accepted are {self.values:,}"
            )
