"""What requests hold and answers have, as /openapi.json describes them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

History = Annotated[list[str], Field(description="Texts of a user's items, oldest first.")]
Text = Annotated[
    str | Annotated[list[str], Field(min_length=2, max_length=2)],
    Field(description="A text; or both texts of a pair, where the student reads pairs."),
]


# What an answer can hold as a number.
Number = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Body(BaseModel):
    """The base of what requests hold: unknown keys are refused, and no value is turned into another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Interaction(Body):
    """An interaction of a support: a user's history before it, and the item taken."""

    history: History = []
    item: str = Field(description="The item's text.")


class Items(Body):
    """Items of a catalogue."""

    texts: list[str] = Field(min_length=1, description="Of the items, each once.")
    products: list[int] | None = Field(None, description="How many of the shop's products each text stands for.")


class RankingScene(Body):
    """What a recommender adapts to."""

    support: list[Interaction] = Field(description="The scene's first interactions, oldest first; at least one.")
    candidates: list[str] | None = Field(None, description="The scene's items, of the catalogue; all if left out.")
    catalogue: Items | None = Field(None, description="Items of the scene's own, in place of the catalogue.")


class User(Body):
    """A user to rank for."""

    user: str | Number | None = Field(None, description="A name or number, which the answer repeats.")
    history: History = []


class RankRequest(Body):
    """Users to rank a scene's items for."""

    users: list[User] = Field(min_length=1)
    k: int = Field(10, ge=1, description="Length of a list.")
    explain: bool = Field(False, description="Say why each item has its score.")


class SimilarRequest(Body):
    """Items to find others like."""

    items: list[str] = Field(min_length=1, description="Texts of the catalogue, or of the scene.")
    k: int = Field(10, ge=1, description="How many for each.")
    scene: str | None = Field(None, description="By the vectors of this scene, among its items.")


class FindRequest(Body):
    """Words to find items by."""

    queries: list[str] = Field(min_length=1)
    k: int = Field(10, ge=1, description="How many for each.")


class ProfileRequest(Body):
    """Users to make profiles of."""

    users: list[User] = Field(min_length=1)
    k: int = Field(10, ge=1, description="How many of the nearest items.")
    scene: str | None = Field(None, description="As this scene sees them.")


class LabelledText(Body):
    """A text with its label."""

    text: Text
    label: str


class ClassificationScene(Body):
    """What a classifier adapts to."""

    labelled: list[LabelledText] = Field(description="Some texts of each class.")


class ClassifyRequest(Body):
    """Texts to classify."""

    texts: list[Text] = Field(min_length=1)
    probabilities: bool = Field(False, description="Give the probability of every label too.")
    explain: bool = Field(False, description="Give the labelled texts that are nearest to each text too.")


class EmbedRequest(Body):
    """Texts to embed."""

    texts: list[Text] = Field(min_length=1)


class Reason(BaseModel):
    """A term of a score, and what each text of history or support has of it."""

    name: str
    value: float
    items: list[tuple[str, float]]


class RankedList(BaseModel):
    """A user's list, best first."""

    user: str | int | None
    items: list[str]
    scores: list[float]
    reasons: list[list[Reason]] | None = None


class RankedLists(BaseModel):
    """A list for each user, in the order of the request."""

    lists: list[RankedList]


class NearItem(BaseModel):
    """An item that is near, with the cosine of the vectors."""

    item: str
    similarity: float


class Nearest(BaseModel):
    """The items that are nearest to an item, a query, or a user; and a user's vector of length 1."""

    item: str | None = None
    query: str | None = None
    user: str | int | None = None
    vector: list[float] | None = None
    nearest: list[NearItem]


class NearestLists(BaseModel):
    """What is nearest to each, in the order of the request."""

    lists: list[Nearest]


class Neighbour(BaseModel):
    """A labelled text that is near."""

    text: str
    label: str
    similarity: float


class ClassifiedText(BaseModel):
    """A text with its most probable label."""

    text: str
    label: str
    probability: float
    probabilities: dict[str, float] | None = None
    nearest: list[Neighbour] | None = None


class ClassifiedTexts(BaseModel):
    """A label for each text, in the order of the request."""

    texts: list[ClassifiedText]


class Vectors(BaseModel):
    """A vector of length 1 for each text, in the order of the request."""

    vectors: list[list[float]]


class SceneFacts(BaseModel):
    """A scene that the service has adapted to: with candidates, or with labels."""

    name: str
    support: int
    candidates: int | None = None
    labels: list[str] | None = None


class SceneList(BaseModel):
    """Scenes, the one used last first, and how many are kept."""

    scenes: list[SceneFacts]
    most: int


class Added(BaseModel):
    """How many items were new, and how many the catalogue has."""

    added: int
    items: int


class Health(BaseModel):
    """What the service serves. It listens only when it is ready."""

    status: str
    ready: bool
    task: str
    study: str
    folder: str
    folder_changed: bool
    items: int
    scenes: int
