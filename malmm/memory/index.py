"""Search by the combined score over the records that are loaded into this process, a block a user.

The index holds no truth: a store fills it, a user at a time, and keeps it up to date. It holds codes of the
vectors and everything else that a score is made of, and asks the store for the exact vectors of the few
records that may be among the best. Every step scores all terms: candidates by cosine alone would miss most of
what a combined score puts first.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from malmm.memory.block import Block, Ids, Numbers, Restriction, Rows
from malmm.memory.codes import Coder, Encoded, code_cosines, cosines_by_differing, differing_signs
from malmm.memory.record import Vector, Weights
from malmm.memory.scoring import Floats, cosines, score_terms

USER_BITS = 32  # an id is the user's number times 2^32 plus the record's own
EVERYTHING = Restriction()
FEW = 4096  # so many records are scored by their codes at once, without a first look at the signs
SPARE = 16  # finalists, beside a quarter more than are wanted
ReadVectors = Callable[[Ids], Mapping[int, NDArray[np.floating]]]


@dataclass(frozen=True)
class Found:
    """Records of a search, best first: ids [m], scores [m], terms [m, 4] as `score_terms` has them."""

    ids: Ids
    scores: Floats
    terms: Floats


NOTHING = Found(np.empty(0, np.int64), np.empty(0), np.empty((0, 4)))


class VectorIndex:
    """Records in memory, by user. Safe to call from several threads. C is the width."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._coder = Coder(width)
        self._blocks: dict[int, Block] = {}  # by the user's number
        self._lock = threading.RLock()

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._blocks.values()))

    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        with self._lock:
            return sum(block.nbytes() for block in self._blocks.values())

    def put(self, rows: Rows) -> None:
        """Insert records, or replace those whose id is there; of one user or of several, ids in any order."""
        with self._lock:
            for user, at in _by_user(rows.ids):
                self._blocks.setdefault(user, Block(self._coder)).put(rows.take(at))

    def set_counters(self, ids: Ids, accessed: Floats, counts: NDArray[np.int64]) -> None:
        """Set when records were last accessed and how often; ids that are not here are passed over."""
        with self._lock:
            for user, at in _by_user(ids):
                if user in self._blocks:
                    self._blocks[user].set_counters(ids[at], accessed[at], counts[at])

    def remove(self, ids: Ids) -> None:
        """Forget records; ids that are not here are passed over."""
        with self._lock:
            for user, at in _by_user(ids):
                if user in self._blocks:
                    self._blocks[user].remove(ids[at])

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
        read_vectors: ReadVectors,
        only: Restriction = EVERYTHING,
    ) -> Found:
        """The k records of the highest score (fewer where there are fewer), equal scores by id.

        query: float32 [C] of unit length; user: number, None: all that are loaded; read_vectors: called once,
        without a lock held, for the exact vectors [C] of some ids, by id, without those that are gone. Scores
        and terms are exact; among thousands of records one of the best may be missed, see `_Scan`.
        """
        with self._lock:
            blocks = [block for number, block in self._blocks.items() if user in (None, number)]
            if not blocks:
                return NOTHING
            encoded = self._coder.encode(query[None])
            scans = [_Scan(block, encoded, weights, now, only) for block in blocks]
            rows, most_counts = _finalists(scans, k + k // 4 + SPARE)
        vectors = read_vectors(rows.ids)
        there = np.array([id in vectors for id in rows.ids.tolist()], np.bool_)
        rows = rows.take(there)
        exact = np.array([vectors[id] for id in rows.ids.tolist()]).reshape(-1, self.width)
        scores, terms = score_terms(
            cosines(exact, query), rows.created, rows.accessed, rows.counts, rows.saliency, now, weights,
            most_counts[there],
        )  # fmt: skip
        best = np.lexsort((rows.ids, -scores))[:k]
        return Found(rows.ids[best], scores[best], terms[best])


class _Scan:
    """One user's records as one search sees them, scored in two steps, each for fewer records and closer.

    By signs for all, where there are more than `FEW`; by codes for the best of them. The errors of a cosine
    are about 0.04 and 0.0004 at a width of 1024.
    """

    def __init__(self, block: Block, query: Encoded, weights: Weights, now: float, only: Restriction) -> None:
        self.block, self.rows = block, block.rows
        self.seen = only.mask(self.rows, now)
        self.most_counts = int(self.rows.counts.max(initial=0, where=self.seen))
        self._query, self._weights, self._now = query, weights, now

    def estimates(self) -> NDArray[np.float32]:
        """Scores [n] with the cosine that the signs show; of what is not seen minus infinity."""
        rows, weights = self.rows, self._weights
        signs = self.block.signs
        table = np.float32(weights.relevance) * np.maximum(cosines_by_differing(len(signs)), 0)
        scores: NDArray[np.float32] = table[differing_signs(signs, self._query.signs)]
        if weights.recency:
            born = rows.created if weights.age_from == "created" else rows.accessed
            decay = ((born - self._now) * (np.log(2) / weights.half_life)).astype(np.float32)
            scores += weights.recency * np.exp(np.minimum(decay, 0))
        if weights.frequency:
            unit = weights.frequency / np.log1p(max(self.most_counts, 1))
            scores += unit * np.log(1 + rows.counts.astype(np.float32))
        if weights.saliency:
            scores += weights.saliency * rows.saliency
        np.copyto(scores, np.float32(-np.inf), where=~self.seen)
        return scores

    def scores(self, at: Numbers) -> Floats:
        """Scores [m] of the rows `at` with the cosine that the codes show."""
        rows = self.rows
        cosine = code_cosines(rows.vectors, self.block.scale, at, self._query)
        return score_terms(
            cosine, rows.created[at], rows.accessed[at], rows.counts[at], rows.saliency[at],
            self._now, self._weights, self.most_counts,
        )[0]  # fmt: skip


def _finalists(scans: Sequence[_Scan], count: int) -> tuple[Rows, NDArray[np.int64]]:
    """The `count` rows of the highest score by their codes, with their user's highest count [m]."""
    seen = sum(int(np.count_nonzero(scan.seen)) for scan in scans)
    promising = FEW + seen // 256
    if seen > promising:
        at = _best([scan.estimates() for scan in scans], [scan.rows.ids for scan in scans], promising)
    else:
        at = [np.flatnonzero(scan.seen) for scan in scans]
    ids = [scan.rows.ids[rows] for scan, rows in zip(scans, at, strict=True)]
    scores = [scan.scores(rows) for scan, rows in zip(scans, at, strict=True)]
    at = [rows[kept] for rows, kept in zip(at, _best(scores, ids, count), strict=True)]
    most_counts = [np.full(len(rows), scan.most_counts) for scan, rows in zip(scans, at, strict=True)]
    parts = [scan.rows.take(rows) for scan, rows in zip(scans, at, strict=True)]
    return Rows.join(parts), np.concatenate(most_counts)


def _best(scores: Sequence[NDArray[np.floating]], ids: Sequence[Ids], count: int) -> list[Numbers]:
    """Of several lists of scores the places of the `count` highest of all, for each list; ties by id."""
    together = np.concatenate(scores)
    ends = np.cumsum([len(some) for some in scores])
    if len(together) > count:
        limit = np.partition(together, -count)[-count]
        places, tied = np.flatnonzero(together > limit), np.flatnonzero(together == limit)
        tied = tied[np.argsort(np.concatenate(ids)[tied])][: count - len(places)]
        places = np.sort(np.concatenate([places, tied]))
    else:
        places = np.arange(len(together))
    parts = np.split(places, np.searchsorted(places, ends[:-1]))
    return [part - end + len(some) for part, end, some in zip(parts, ends, scores, strict=True)]


def _by_user(ids: Ids) -> Iterator[tuple[int, Numbers]]:
    """Each user's number, and where his ids are."""
    users = ids >> USER_BITS
    for user in np.unique(users).tolist():
        yield user, np.flatnonzero(users == user)
