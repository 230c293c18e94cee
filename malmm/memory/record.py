"""What the long-term memory keeps, what it is asked, and what it answers. C is the embedding's width.

Times are seconds since the epoch, UTC, as `time.time` gives them.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Modality = Literal["text", "vision", "audio", "video"]
Vector = NDArray[np.float32]  # [C]; what is stored has unit length


@dataclass(frozen=True)
class Media:
    """A picture, sound or film that a record is about."""

    path: str
    """Where it lay when it was remembered."""
    sha256: str
    """Of the file's bytes: the name of its copy in the store, where there is one."""
    copied: bool = False
    source: str | None = field(default=None, compare=False, repr=False)
    """Of a draft: a file that has its bytes now, where that is not `path`."""


@dataclass(frozen=True)
class Draft:
    """A record before the store has it."""

    user: str
    text: str
    embedding: Vector
    modality: Modality = "text"
    role: str = "user"
    """Who it comes from: user or assistant."""
    conversation: str = ""
    turn: int | None = None
    media: Media | None = None
    created: float | None = None
    """None: the moment at which it is added."""
    saliency: float = 0.0
    """In [0, 1]: how much it stands out from what is known."""
    pinned: bool = False
    accessed: float | None = None
    """This and the next two: of a record that comes from another store. None: as `created`."""
    access_count: int = 0
    size: int = 1


@dataclass(frozen=True)
class Record:
    """One memory. `id` is the user's number times 2^32 plus the record's own: they lie together by user."""

    id: int
    user: str
    text: str
    embedding: Vector
    modality: Modality
    role: str
    conversation: str
    turn: int | None
    media: Media | None
    created: float
    accessed: float
    """When it was last recalled; `created` where it never was."""
    access_count: int
    saliency: float
    pinned: bool
    size: int = 1
    """How many records were merged into this one, itself included."""


@dataclass(frozen=True)
class Filters:
    """Which records a search or a list may see; None: no restriction. Times are [after, before)."""

    conversation: str | None = None
    exclude_conversation: str | None = None
    modality: Modality | None = None
    role: str | None = None
    after: float | None = None
    before: float | None = None
    pinned: bool | None = None


@dataclass(frozen=True)
class Weights:
    """What a memory's score is made of.

    w_rel cosine + w_rec 2^(-age/half_life) + w_freq log(1+n)/log(1+n_max) + w_sal saliency, where every term
    lies in [0, 1], half_life is in seconds and n counts how often the record was recalled.

    A cosine below 0 counts as 0. n_max is the highest count among the user's records that the search may see.
    age_from: created, or accessed as in Generative Agents (Park et al. 2023, section 4.1).
    """

    relevance: float = 1.0
    recency: float = 0.0
    frequency: float = 0.0
    saliency: float = 0.0
    half_life: float = 7 * 86400.0
    age_from: Literal["created", "accessed"] = "created"


@dataclass(frozen=True)
class Query:
    """A search by the combined score.

    user: None searches the records of all users, for whoever runs the store and never for a user.
    now: the moment that ages are counted from; only what was created before or at it is seen.
    """

    embedding: Vector
    user: str | None
    now: float
    k: int = 10
    weights: Weights = field(default_factory=Weights)
    filters: Filters = field(default_factory=Filters)


@dataclass(frozen=True)
class Terms:
    """The four terms of a score, each in [0, 1] and before its weight."""

    relevance: float
    recency: float
    frequency: float
    saliency: float


@dataclass(frozen=True)
class Match:
    """A record that was found, its combined score and what the score is made of."""

    record: Record
    score: float
    terms: Terms
