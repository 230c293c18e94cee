"""What the index knows of records, in arrays, and which of them a search may see."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malmm.memory.scoring import Floats

Ids = NDArray[np.int64]
Numbers = NDArray[np.intp]


@dataclass(frozen=True)
class Rows:
    """What the index knows of n records. Modality, role and conversation are numbers that the store gives."""

    ids: Ids
    vectors: NDArray[Any]  # floats [n, C] of unit length; within the index their codes, int8
    created: Floats
    accessed: Floats
    counts: NDArray[np.int64]
    saliency: NDArray[np.float32]  # of a pinned record 1
    modality: NDArray[np.int8]
    role: NDArray[np.int8]
    pinned: NDArray[np.bool_]
    conversation: NDArray[np.int64]

    def take(self, rows: Numbers | NDArray[np.bool_] | slice) -> "Rows":
        """Some of them."""
        return Rows(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def join(parts: Sequence["Rows"]) -> "Rows":
        """All of them, one after the other."""
        return Rows(
            *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Rows))
        )


@dataclass(frozen=True)
class Restriction:
    """`record.Filters` in the store's numbers; None: no restriction. Times are [after, before)."""

    conversation: int | None = None
    exclude_conversation: int | None = None
    modality: int | None = None
    role: int | None = None
    after: float | None = None
    before: float | None = None
    pinned: bool | None = None

    def mask(self, rows: Rows, now: float) -> NDArray[np.bool_]:
        """[n]: which of the rows a search at `now` may see; never what was created later."""
        seen = rows.created <= now
        for name in ("conversation", "modality", "role", "pinned"):
            wanted = getattr(self, name)
            if wanted is not None:
                seen &= getattr(rows, name) == wanted
        if self.exclude_conversation is not None:
            seen &= rows.conversation != self.exclude_conversation
        if self.after is not None:
            seen &= rows.created >= self.after
        if self.before is not None:
            seen &= rows.created < self.before
        return seen
