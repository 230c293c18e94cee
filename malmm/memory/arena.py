"""The records of all users in one set of arrays, those of a user side by side."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malmm.memory.codes import Coder, Signs
from malmm.memory.rows import Ids, Numbers, Rows
from malmm.memory.scoring import Floats

_NOTHING = -1  # the id of a row without a record; its time of creation never comes, so that no search sees it
_GROWTH = 1.5
_LITTLE = 4096  # so many rows without a record are no waste


@dataclass
class _Stretch:
    """A user's rows: from `start` on, `used` of the `room` that is his."""

    start: int
    used: int = 0
    room: int = 0

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.used)


class Arena:
    """Codes, signs and columns of all records. A stretch that is full moves to the end with more room."""

    def __init__(self, coder: Coder) -> None:
        self._coder = coder
        self._stretches: dict[int, _Stretch] = {}
        self._records = self._end = 0
        self._columns = _empty_rows(coder.padded)
        self._scale = np.empty(0, np.float32)
        self._signs = np.empty((coder.words, 0), np.uint64)  # a row a word: a scan reads them one by one

    def __len__(self) -> int:
        return self._records

    def nbytes(self) -> int:
        """Bytes of the arrays as far as they are in use."""
        arrays = [self._scale, self._signs.T, *(getattr(self._columns, field.name) for field in fields(Rows))]
        return sum(array[: self._end].nbytes for array in arrays)

    def part(self, rows: slice) -> tuple[Rows, NDArray[np.float32], Signs]:
        """Some rows as they lie, with codes for vectors, the codes' scale [n] and signs [P / 64, n]."""
        return self._columns.take(rows), self._scale[rows], self._signs[:, rows]

    def rows_of(self, user: int | None) -> slice:
        """Where the rows of a user lie, or (None) of all."""
        if user is None:
            return slice(0, self._end)
        return self._stretches.get(user, _Stretch(0)).rows

    def starts(self) -> Numbers:
        """Where each user's rows begin, ascending, and 0."""
        return np.unique([0, *(stretch.start for stretch in self._stretches.values() if stretch.used)])

    def put(self, user: int, rows: Rows) -> None:
        """Insert records of a user, or replace those whose id is there."""
        stretch = self._stretches.setdefault(user, _Stretch(self._end))
        at, known = self._locate(stretch, rows.ids)
        new = int(np.count_nonzero(~known))
        if stretch.used + new > stretch.room:
            self._move(stretch, new)
            at, known = self._locate(stretch, rows.ids)
        at[~known] = np.arange(new) + stretch.rows.stop
        stretch.used += new
        self._records += new
        encoded = self._coder.encode(rows.vectors)
        self._scale[at], self._signs[:, at] = encoded.scale, encoded.signs
        self._set(at, replace(rows, vectors=encoded.codes))

    def set_counters(self, user: int, ids: Ids, accessed: Floats, counts: NDArray[np.int64]) -> None:
        """Set when records of a user were last accessed and how often."""
        at, known = self._locate(self._stretches.get(user, _Stretch(0)), ids)
        self._columns.accessed[at[known]], self._columns.counts[at[known]] = accessed[known], counts[known]

    def remove(self, user: int, ids: Ids) -> None:
        """Forget records of a user."""
        at, known = self._locate(self._stretches.get(user, _Stretch(0)), np.unique(ids))
        self._clear(at[known])
        self._tidy()

    def drop(self, user: int) -> None:
        """Forget all records of a user."""
        self._clear(self._filled(self._stretches.pop(user, _Stretch(0))))
        self._tidy()

    def _locate(self, stretch: _Stretch, ids: Ids) -> tuple[Numbers, NDArray[np.bool_]]:
        """Row of each id [m], and whether it is there at all."""
        if not stretch.used:
            return np.zeros(len(ids), np.intp), np.zeros(len(ids), np.bool_)
        own = self._columns.ids[stretch.rows]
        order = np.argsort(own, kind="stable")  # quick where they lie in order, as they mostly do
        at = order[np.minimum(np.searchsorted(own, ids, sorter=order), stretch.used - 1)]
        return at + stretch.start, own[at] == ids

    def _filled(self, stretch: _Stretch) -> Numbers:
        """The rows that hold a record."""
        return stretch.start + np.flatnonzero(self._columns.ids[stretch.rows] != _NOTHING)

    def _clear(self, at: Numbers) -> None:
        self._columns.ids[at], self._columns.created[at] = _NOTHING, np.inf
        self._records -= len(at)

    def _set(self, at: Numbers | slice, rows: Rows) -> None:
        for field in fields(Rows):
            getattr(self._columns, field.name)[at] = getattr(rows, field.name)

    def _move(self, stretch: _Stretch, new: int) -> None:
        """Bring a stretch to the end, without rows that are gone and with room for more."""
        filled = self._filled(stretch)
        room = len(filled) + new
        if stretch.room:  # the first time it takes no more than it needs
            room = max(room, int(_GROWTH * len(filled)))
        self._reserve(room)
        start, self._end = self._end, self._end + room
        self._columns.ids[start : self._end], self._columns.created[start : self._end] = _NOTHING, np.inf
        moved = slice(start, start + len(filled))
        self._set(moved, self._columns.take(filled))
        self._scale[moved], self._signs[:, moved] = self._scale[filled], self._signs[:, filled]
        self._columns.ids[filled], self._columns.created[filled] = _NOTHING, np.inf
        stretch.start, stretch.used, stretch.room = start, len(filled), room

    def _reserve(self, more: int) -> None:
        """Have the arrays reach beyond the end by so many rows."""
        size = len(self._scale)
        if self._end + more <= size:
            return
        size = max(self._end + more, int(_GROWTH * size))
        columns = (_grown(getattr(self._columns, field.name), self._end, size) for field in fields(Rows))
        self._columns = Rows(*columns)
        self._scale = _grown(self._scale, self._end, size)
        signs = np.empty((len(self._signs), size), np.uint64)
        signs[:, : self._end] = self._signs[:, : self._end]
        self._signs = signs

    def _tidy(self) -> None:
        """Where most rows hold no record, lay those that do side by side."""
        if self._end <= 2 * self._records + _LITTLE:
            return
        kept, end = [np.empty(0, np.intp)], 0
        for stretch in self._stretches.values():
            kept.append(self._filled(stretch))
            stretch.start, stretch.used, stretch.room = end, len(kept[-1]), len(kept[-1])
            end += stretch.used
        rows = np.concatenate(kept)
        self._columns, self._scale = self._columns.take(rows), self._scale[rows]
        self._signs, self._end = np.take(self._signs, rows, axis=1), end
        self._stretches = {user: stretch for user, stretch in self._stretches.items() if stretch.used}


def _grown(array: NDArray[Any], used: int, size: int) -> NDArray[Any]:
    """The first rows of an array in a larger one, whose rest no memory is spent on yet."""
    larger = np.zeros((size, *array.shape[1:]), array.dtype)
    larger[:used] = array[:used]
    return larger


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
