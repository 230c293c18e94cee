"""The records of all users in one set of arrays, those of a user side by side."""

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from malmm.memory.codes import Coder, Signs
from malmm.memory.rows import Ids, Numbers, Rows
from malmm.memory.scoring import Floats

_NOTHING = -1  # the id of a row without a record; its time of creation never comes, so that no search sees it
_GROWTH = 1.5  # of the arrays; no memory is spent on what is not in use
_SPARE = 8  # a stretch has room for an eighth more than its records
_LITTLE = 4096  # so many rows without a record are no waste


@dataclass(frozen=True)
class Part:
    """n rows as they lie: columns with codes for vectors, the codes' scale [n], signs [P / 64, n]."""

    columns: Rows
    scale: NDArray[np.float32]
    signs: Signs

    def __getitem__(self, rows: slice | Numbers) -> "Part":
        return Part(self.columns.take(rows), self.scale[rows], self.signs[:, rows])

    def nbytes(self) -> int:
        """Bytes of the arrays."""
        columns = sum(getattr(self.columns, field.name).nbytes for field in fields(Rows))
        return columns + self.scale.nbytes + self.signs.nbytes

    def write(self, start: int, source: "Part") -> None:
        """Copy all rows of `source` to `start` and after."""
        to = slice(start, start + len(source.scale))
        for field in fields(Rows):
            getattr(self.columns, field.name)[to] = getattr(source.columns, field.name)
        self.scale[to], self.signs[:, to] = source.scale, source.signs

    def clear(self, rows: Numbers | slice) -> None:
        """Let rows hold no record."""
        self.columns.ids[rows], self.columns.created[rows] = _NOTHING, np.inf


@dataclass
class _Stretch:
    """A user's rows: from `start` on, `used` of the `room` that is his."""

    start: int = 0
    used: int = 0
    room: int = 0

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.used)


class Arena:
    """Codes, signs and columns of all records. A stretch that is full moves to the end."""

    def __init__(self, coder: Coder) -> None:
        self._coder = coder
        self._stretches: dict[int, _Stretch] = {}
        self._records = self._end = 0
        self._all = _room(coder, 0)

    def __len__(self) -> int:
        return self._records

    def nbytes(self) -> int:
        """Bytes of what is in use of the arrays."""
        return self._all[: self._end].nbytes()

    def part(self, user: int | None) -> Part:
        """The rows of a user, or (None) of all; among them some without a record."""
        return self._all[slice(0, self._end) if user is None else self._stretch(user).rows]

    def starts(self) -> Numbers:
        """Where each user's rows begin, ascending, and 0."""
        return np.unique([0, *(stretch.start for stretch in self._stretches.values() if stretch.used)])

    def put(self, user: int, rows: Rows) -> None:
        """Insert records of a user, or replace those whose id is there."""
        stretch = self._stretches.setdefault(user, _Stretch())
        at, known = self._locate(stretch, rows.ids)
        new = int(np.count_nonzero(~known))
        if stretch.used + new > stretch.room:
            self._move(stretch, new)
            at, known = self._locate(stretch, rows.ids)
        at[~known] = np.arange(new) + stretch.rows.stop
        stretch.used += new
        self._records += new
        encoded = self._coder.encode(rows.vectors)
        self._all.scale[at], self._all.signs[:, at] = encoded.scale, encoded.signs
        rows = replace(rows, vectors=encoded.codes)
        for field in fields(Rows):
            getattr(self._all.columns, field.name)[at] = getattr(rows, field.name)
        self._tidy()

    def set_counters(self, user: int, ids: Ids, accessed: Floats, counts: NDArray[np.int64]) -> None:
        """Set when records of a user were last accessed and how often."""
        at, known = self._locate(self._stretch(user), ids)
        columns = self._all.columns
        columns.accessed[at[known]], columns.counts[at[known]] = accessed[known], counts[known]

    def remove(self, user: int, ids: Ids) -> None:
        """Forget records of a user."""
        at, known = self._locate(self._stretch(user), np.unique(ids))
        self._forget(at[known])

    def drop(self, user: int) -> None:
        """Forget all records of a user."""
        self._forget(self._filled(self._stretch(user)))
        self._stretches.pop(user, None)

    def _stretch(self, user: int) -> _Stretch:
        return self._stretches.get(user, _Stretch())

    def _locate(self, stretch: _Stretch, ids: Ids) -> tuple[Numbers, NDArray[np.bool_]]:
        """Row of each id [m], and whether it is there at all."""
        if not stretch.used:
            return np.zeros(len(ids), np.intp), np.zeros(len(ids), np.bool_)
        own = self._all.columns.ids[stretch.rows]
        order = np.argsort(own, kind="stable")  # quick where they lie in order, as they mostly do
        at = order[np.minimum(np.searchsorted(own, ids, sorter=order), stretch.used - 1)]
        return at + stretch.start, own[at] == ids

    def _filled(self, stretch: _Stretch) -> Numbers:
        """The rows that hold a record."""
        return stretch.start + np.flatnonzero(self._all.columns.ids[stretch.rows] != _NOTHING)

    def _forget(self, rows: Numbers) -> None:
        self._all.clear(rows)
        self._records -= len(rows)
        self._tidy()

    def _move(self, stretch: _Stretch, new: int) -> None:
        """Bring a stretch to the end, without rows that are gone and with room for `new` and some more."""
        filled, source = self._filled(stretch), self._all
        room = len(filled) + new
        room += room // _SPARE
        if self._end + room > len(source.scale):
            self._all = _room(self._coder, max(self._end + room, int(_GROWTH * len(source.scale))))
            self._all.write(0, source[: self._end])
        self._lay(stretch, self._all, filled, room)
        self._all.clear(filled)

    def _lay(self, stretch: _Stretch, source: Part, filled: Numbers, room: int) -> None:
        """Put rows of `source` at the end, as the stretch's."""
        start, self._end = self._end, self._end + room
        self._all.write(start, source[filled])
        self._all.clear(slice(start + len(filled), self._end))
        stretch.start, stretch.used, stretch.room = start, len(filled), room

    def _tidy(self) -> None:
        """Where most rows hold no record, lay the stretches anew."""
        if self._end <= 2 * self._records + _LITTLE:
            return
        filled = {user: self._filled(stretch) for user, stretch in self._stretches.items()}
        rooms = {user: len(rows) + len(rows) // _SPARE for user, rows in filled.items() if len(rows)}
        source, self._all, self._end = self._all, _room(self._coder, sum(rooms.values())), 0
        self._stretches = {user: _Stretch() for user in rooms}
        for user, stretch in self._stretches.items():
            self._lay(stretch, source, filled[user], rooms[user])


def _room(coder: Coder, size: int) -> Part:
    """Arrays of so many rows, on which no memory is spent until they are written."""
    columns = Rows(
        ids=np.zeros(size, np.int64),
        vectors=np.zeros((size, coder.padded), np.int8),
        created=np.zeros(size),
        accessed=np.zeros(size),
        counts=np.zeros(size, np.int64),
        saliency=np.zeros(size, np.float32),
        modality=np.zeros(size, np.int8),
        role=np.zeros(size, np.int8),
        pinned=np.zeros(size, np.bool_),
        conversation=np.zeros(size, np.int64),
    )
    # A row of signs for each word, one word of all vectors after the other: that is how a scan reads them.
    return Part(columns, np.zeros(size, np.float32), np.zeros((coder.words, size), np.uint64))
