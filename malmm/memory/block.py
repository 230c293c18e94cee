"""One user's records in memory: what a search reads of them, and what becomes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malmm.memory.codes import Coder, Signs
from malmm.memory.scoring import Floats

Ids = NDArray[np.int64]
Numbers = NDArray[np.intp]
_GONE = -1  # the id of a row that was removed; its time of creation never comes
_GROWTH = 1.5


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


class Block:
    """A user's records, in arrays with room at their end. Rows that are gone stay until half of all are."""

    def __init__(self, coder: Coder) -> None:
        self._coder = coder
        self._end = self._gone = 0
        self._rows = _empty_rows(coder.padded)
        self._scale = np.empty(0, np.float32)
        self._signs = np.empty((coder.words, 0), np.uint64)  # a row a word: a scan reads them one by one

    def __len__(self) -> int:
        return self._end - self._gone

    @property
    def rows(self) -> Rows:
        """What is there, with codes for vectors; among it rows that are gone, which no search sees."""
        return self._rows.take(slice(self._end))

    @property
    def scale(self) -> NDArray[np.float32]:
        """[n]: what a row's codes are multiplied by."""
        return self._scale[: self._end]

    @property
    def signs(self) -> Signs:
        """[P / 64, n]."""
        return self._signs[:, : self._end]

    def nbytes(self) -> int:
        """Bytes that the arrays take, the room at their end included."""
        arrays = [self._scale, self._signs, *(getattr(self._rows, field.name) for field in fields(Rows))]
        return sum(array.nbytes for array in arrays)

    def put(self, rows: Rows) -> None:
        """Insert records, or replace those whose id is there."""
        at, known = self._locate(rows.ids)
        new = int(np.count_nonzero(~known))
        self._reserve(new)
        at[~known] = np.arange(self._end, self._end + new)
        self._end += new
        encoded = self._coder.encode(rows.vectors)
        self._scale[at], self._signs[:, at] = encoded.scale, encoded.signs
        rows = replace(rows, vectors=encoded.codes)
        for field in fields(Rows):
            getattr(self._rows, field.name)[at] = getattr(rows, field.name)

    def set_counters(self, ids: Ids, accessed: Floats, counts: NDArray[np.int64]) -> None:
        """Set when records were last accessed and how often."""
        at, known = self._locate(ids)
        self._rows.accessed[at[known]], self._rows.counts[at[known]] = accessed[known], counts[known]

    def remove(self, ids: Ids) -> None:
        """Forget records."""
        at, known = self._locate(np.unique(ids))
        at = at[known]
        self._rows.ids[at], self._rows.created[at] = _GONE, np.inf
        self._gone += len(at)
        if 2 * self._gone > self._end:
            kept = np.flatnonzero(self.rows.ids != _GONE)
            self._rows, self._scale = self._rows.take(kept), self._scale[kept]
            self._signs = np.take(self._signs, kept, axis=1)
            self._end, self._gone = len(kept), 0

    def _locate(self, ids: Ids) -> tuple[Numbers, NDArray[np.bool_]]:
        """Row of each id [m], and whether it is there at all."""
        if not self._end:
            return np.zeros(len(ids), np.intp), np.zeros(len(ids), np.bool_)
        own = self._rows.ids[: self._end]
        order = np.argsort(own, kind="stable")  # quick where they lie in order, as they mostly do
        places = np.searchsorted(own, ids, sorter=order)
        at = order[np.minimum(places, self._end - 1)]
        return at, own[at] == ids

    def _reserve(self, new: int) -> None:
        """Room for so many more rows; a block's first rows take no more than they need."""
        if self._end + new <= len(self._scale):
            return
        size = max(self._end + new, int(_GROWTH * len(self._scale)))
        self._rows = Rows(*(_grown(getattr(self._rows, field.name), size) for field in fields(Rows)))
        self._scale, self._signs = _grown(self._scale, size), _grown(self._signs, size, axis=1)


def _grown(array: NDArray[Any], size: int, axis: int = 0) -> NDArray[Any]:
    """The same with room for more along one axis."""
    shape = [*array.shape]
    shape[axis] = size - shape[axis]
    return np.concatenate([array, np.empty(shape, array.dtype)], axis=axis)


def _empty_rows(width: int) -> Rows:
    """No row, in the types that are kept."""
    return Rows(
        ids=np.empty(0, np.int64),
        vectors=np.empty((0, width), np.int8),
        created=np.empty(0),
        accessed=np.empty(0),
        counts=np.empty(0, np.int64),
        saliency=np.empty(0, np.float32),
        modality=np.empty(0, np.int8),
        role=np.empty(0, np.int8),
        pinned=np.empty(0, np.bool_),
        conversation=np.empty(0, np.int64),
    )
