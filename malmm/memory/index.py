"""Search by the combined score over the records that are loaded into this process, a block a user.

The index holds no truth: a store fills it from its file, a user at a time, and keeps it up to date.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from malmm.memory.record import Vector, Weights
from malmm.memory.scoring import Floats, cosines, score_terms

Ids = NDArray[np.int64]
USER_BITS = 32  # an id is the user's number times 2^32 plus the record's own


@dataclass(frozen=True)
class Rows:
    """What the index knows of n records. Modality, role and conversation are numbers that the store gives."""

    ids: Ids
    vectors: NDArray[np.floating]  # [n, C] of unit length; kept in float16
    created: Floats
    accessed: Floats
    counts: NDArray[np.int64]
    saliency: NDArray[np.float32]  # of a pinned record 1
    modality: NDArray[np.int8]
    role: NDArray[np.int8]
    pinned: NDArray[np.bool_]
    conversation: NDArray[np.int64]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "Rows":
        """Some of them."""
        return Rows(*(getattr(self, field.name)[rows] for field in fields(self)))


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


EVERYTHING = Restriction()


@dataclass(frozen=True)
class Found:
    """Records of a search, best first: ids [m], scores [m], terms [m, 4] as `score_terms` has them."""

    ids: Ids
    scores: Floats
    terms: Floats


class VectorIndex:
    """Records in memory, by user. Safe to call from several threads. C is the width."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._blocks: dict[int, Rows] = {}  # by the user's number, rows by ascending id
        self._lock = threading.RLock()

    def __len__(self) -> int:
        with self._lock:
            return sum(len(block.ids) for block in self._blocks.values())

    def put(self, rows: Rows) -> None:
        """Insert records, or replace those whose id is there; of one user or of several, ids in any order."""
        rows = replace(rows, vectors=rows.vectors.astype(np.float16))
        with self._lock:
            for user, some in _by_user(rows):
                block = self._blocks.get(user)
                if block is not None:
                    kept = block.take(~np.isin(block.ids, some.ids))
                    some = Rows(
                        *(
                            np.concatenate([getattr(kept, f.name), getattr(some, f.name)])
                            for f in fields(Rows)
                        )
                    )
                self._blocks[user] = some.take(np.argsort(some.ids))

    def set_counters(self, ids: Ids, accessed: Floats, counts: NDArray[np.int64]) -> None:
        """Set when records were last accessed and how often; ids that are not here are passed over."""
        with self._lock:
            for at, id in enumerate(ids):
                block = self._blocks.get(int(id) >> USER_BITS)
                if block is not None:
                    row = block.ids == id
                    block.accessed[row], block.counts[row] = accessed[at], counts[at]

    def remove(self, ids: Ids) -> None:
        """Forget records; ids that are not here are passed over."""
        with self._lock:
            for user in {int(id) >> USER_BITS for id in ids} & self._blocks.keys():
                block = self._blocks[user]
                self._blocks[user] = block.take(~np.isin(block.ids, ids))

    def drop(self, user: int) -> None:
        """Forget all of a user, given by number."""
        with self._lock:
            self._blocks.pop(user, None)

    def search(
        self,
        query: Vector,
        user: int | None,
        k: int,
        weights: Weights,
        now: float,
        only: Restriction = EVERYTHING,
    ) -> Found:
        """The k records of the highest score (fewer where there are fewer), equal scores by id.

        query: float32 [C] of unit length; user: number, None: all that are loaded. Exact for the vectors'
        float16 values.
        """
        with self._lock:
            users = [*self._blocks] if user is None else self._blocks.keys() & {user}
            parts = [self._score(self._blocks[one], query, weights, now, only) for one in users]
        if not parts:
            return Found(np.empty(0, np.int64), np.empty(0), np.empty((0, 4)))
        ids, scores, terms = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "scores", "terms")
        )
        best = np.lexsort((ids, -scores))[:k]
        return Found(ids[best], scores[best], terms[best])

    def _score(self, block: Rows, query: Vector, weights: Weights, now: float, only: Restriction) -> Found:
        rows = block.take(only.mask(block, now))
        scores, terms = score_terms(
            cosines(rows.vectors, query), rows.created, rows.accessed, rows.counts, rows.saliency,
            now, weights, int(rows.counts.max(initial=0)),
        )  # fmt: skip
        return Found(rows.ids, scores, terms)


def _by_user(rows: Rows) -> Iterator[tuple[int, Rows]]:
    """The rows of each user, by number."""
    users = rows.ids >> USER_BITS
    for user in np.unique(users):
        yield int(user), rows.take(users == user)
