"""Search by the combined score over the records that are loaded into this process, a block a user.

The index holds no truth: a store fills it, a user at a time, and keeps it up to date. It holds codes of the
vectors and everything else that a score is made of, and asks the store for the exact vectors of the few
records that may be among the best. Every step scores all terms: candidates by cosine alone would miss most of
what a combined score puts first.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from malmm.memory.arena import Arena
from malmm.memory.codes import (
    Coder,
    Encoded,
    code_cosines,
    cosines_by_differing,
    differing_signs,
    sign_error,
)
from malmm.memory.record import Vector, Weights
from malmm.memory.rows import Ids, Numbers, Restriction, Rows
from malmm.memory.scoring import Floats, cosines, score_terms

USER_BITS = 32  # an id is the user's number times 2^32 plus the record's own
EVERYTHING = Restriction()
AT_ONCE = 32768  # rows: what is worked on stays in the processor's cache
FEW = 512  # so many records are scored by their codes at once, without a first look at the signs
MOST = 4096  # of more, at most so many and a hundredth
DEVIATIONS = 3  # of the signs' error, by which a record may be underestimated
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
        self._arena = Arena(self._coder)
        self._lock = threading.RLock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._arena)

    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        with self._lock:
            return self._arena.nbytes()

    def put(self, rows: Rows) -> None:
        """Insert records, or replace those whose id is there; of one user or of several, ids in any order."""
        with self._lock:
            for user, at in _by_user(rows.ids):
                self._arena.put(user, rows.take(at))

    def set_counters(self, ids: Ids, accessed: Floats, counts: NDArray[np.int64]) -> None:
        """Set when records were last accessed and how often; ids that are not here are passed over."""
        with self._lock:
            for user, at in _by_user(ids):
                self._arena.set_counters(user, ids[at], accessed[at], counts[at])

    def remove(self, ids: Ids) -> None:
        """Forget records; ids that are not here are passed over."""
        with self._lock:
            for user, at in _by_user(ids):
                self._arena.remove(user, ids[at])

    def drop(self, user: int) -> None:
        """Forget all of a user, given by number."""
        with self._lock:
            self._arena.drop(user)

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
            scan = _Scan(self._arena, user, self._coder.encode(query[None]), weights, now, only)
            rows, most_counts = scan.finalists(k)
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
    """The records that one search sees, scored in two steps, each for fewer records and closer.

    By signs for all, where there are more than `FEW`; by codes for those of them that may be among the best.
    The errors of a cosine are about 0.04 and 0.0004 at a width of 1024.
    """

    def __init__(
        self,
        arena: Arena,
        user: int | None,
        query: Encoded,
        weights: Weights,
        now: float,
        only: Restriction,
    ) -> None:
        self._query, self._weights, self._now = query, weights, now
        part = arena.part(user)
        self._rows, self._scale, self._signs = part.columns, part.scale, part.signs
        self._seen = only.mask(self._rows, now)
        starts = np.zeros(1, np.intp) if user is not None else arena.starts()
        self._most_counts = _highest(np.where(self._seen, self._rows.counts, 0), starts)

    def finalists(self, k: int) -> tuple[Rows, NDArray[np.int64]]:
        """Rows of the k highest scores and a few more, with their users' highest counts [m]."""
        count = k + k // 4 + SPARE
        seen = int(np.count_nonzero(self._seen))
        if seen > max(FEW, 2 * count):
            estimates = self._estimates()
            at = _best(estimates, self._rows.ids, min(seen, max(MOST + seen // 100, 2 * count)))
            at = self._within_reach(at, estimates[at], k, count)
        else:
            at = np.flatnonzero(self._seen)
        at = at[_best(self._scores(at), self._rows.ids[at], count)]
        return self._rows.take(at), self._most_counts[at]

    def _within_reach(self, at: Numbers, estimates: NDArray[np.float32], k: int, count: int) -> Numbers:
        """Those of the rows that may yet be among the k best, whatever the error of their estimate.

        The k best of any rows are no better than those of all: they say what there is to beat.
        """
        leaders = at[_best(estimates, self._rows.ids[at], count)]
        beaten = np.partition(self._scores(leaders), -k)[-k]
        margin = self._weights.relevance * DEVIATIONS * sign_error(len(self._signs))
        return at[estimates >= beaten - margin]

    def _scores(self, at: Numbers) -> Floats:
        """Scores [m] of the rows `at` with the cosine that the codes show."""
        rows = self._rows
        scores, _ = score_terms(
            code_cosines(rows.vectors, self._scale, at, self._query),
            rows.created[at], rows.accessed[at], rows.counts[at], rows.saliency[at],
            self._now, self._weights, self._most_counts[at],
        )  # fmt: skip
        return scores

    def _estimates(self) -> NDArray[np.float32]:
        """Scores [n] with the cosine that the signs show; of what is not seen minus infinity."""
        weights = self._weights
        table = np.float32(weights.relevance) * np.maximum(cosines_by_differing(len(self._signs)), 0)
        scores = np.empty(len(self._seen), np.float32)
        for start in range(0, len(scores), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            part, rows = scores[some], self._rows.take(some)
            np.take(table, differing_signs(self._signs[:, some], self._query.signs), out=part)
            if weights.recency:
                born = rows.created if weights.age_from == "created" else rows.accessed
                decay = ((born - self._now) * (np.log(2) / weights.half_life)).astype(np.float32)
                part += weights.recency * np.exp(np.minimum(decay, 0))
            if weights.frequency:
                most = np.log(1 + np.maximum(self._most_counts[some], 1).astype(np.float32))
                part += weights.frequency * np.log(1 + rows.counts.astype(np.float32)) / most
            if weights.saliency:
                part += weights.saliency * rows.saliency
            np.copyto(part, np.float32(-np.inf), where=~self._seen[some])
        return scores


def _highest(counts: NDArray[np.int64], starts: Numbers) -> NDArray[np.int64]:
    """[n]: the highest of the counts [n] from each start to the next, at all places between them."""
    if not len(counts):
        return counts
    return np.repeat(np.maximum.reduceat(counts, starts), np.diff(starts, append=len(counts)))


def _best(scores: NDArray[np.floating], ids: Ids, count: int) -> Numbers:
    """Places of the `count` highest scores, ascending; of equal ones the lower ids."""
    if len(scores) <= count:
        return np.arange(len(scores))
    limit = np.partition(scores, -count)[-count]
    above, tied = np.flatnonzero(scores > limit), np.flatnonzero(scores == limit)
    tied = tied[np.argsort(ids[tied])][: count - len(above)]
    return np.sort(np.concatenate([above, tied]))


def _by_user(ids: Ids) -> Iterator[tuple[int, Numbers]]:
    """Each user's number, and where his ids are."""
    users = ids >> USER_BITS
    for user in np.unique(users).tolist():
        yield user, np.flatnonzero(users == user)
