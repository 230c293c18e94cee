"""How a user's records are brought down to a budget, as the memory bank compresses its slots.

Of two neighbours in time the most alike become one, again and again; see `MemoryStore.merge`. A record's
neighbours are those of its own modality: words between two pictures do not keep the pictures apart.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from malmm.memory.record import Vector


@dataclass(frozen=True)
class Part:
    """What merging asks of a record."""

    id: int
    modality: str | int
    embedding: Vector
    access_count: int
    saliency: float
    size: int


@dataclass(frozen=True)
class Merge:
    """What becomes of a record into which others were merged."""

    result: Part
    shown: int
    """The record whose text, media, conversation and times it has from now on."""
    absorbed: tuple[int, ...]
    """The records that are gone, in order of time."""


def plan_merges(parts: Sequence[Part], excess: int) -> list[Merge]:
    """Merge `excess` records away, or as many as can be; -> the records that took others in.

    parts: those that may be merged (none pinned) of one user by time of creation, equal times by id.
    """
    alive = {part.id: Merge(part, part.id, ()) for part in parts}
    before, after = _neighbours(parts)
    alikeness = [
        (-_cosine(alive[older].result, alive[newer].result), order, older, newer)
        for order, (older, newer) in enumerate(after.items())
    ]
    heapq.heapify(alikeness)
    orders = {older: order for _, order, older, _ in alikeness}
    while excess > 0 and alikeness:
        similarity, _, older, newer = heapq.heappop(alikeness)
        if after.get(older) != newer or similarity != -_cosine(alive[older].result, alive[newer].result):
            continue  # one of the two has changed since
        alive[older] = _merged(alive[older], alive.pop(newer))
        excess -= 1
        _close_gap(before, after, older, newer)
        for first, second in ((before.get(older), older), (older, after.get(older))):
            if first is not None and second is not None:
                value = -_cosine(alive[first].result, alive[second].result)
                heapq.heappush(alikeness, (value, orders[first], first, second))
    return [merge for merge in alive.values() if merge.absorbed]


def _neighbours(parts: Sequence[Part]) -> tuple[dict[int, int], dict[int, int]]:
    """Of each record the one before it and the one after it of the same modality."""
    before: dict[int, int] = {}
    after: dict[int, int] = {}
    last: dict[str | int, int] = {}
    for part in parts:
        if part.modality in last:
            before[part.id] = last[part.modality]
            after[last[part.modality]] = part.id
        last[part.modality] = part.id
    return before, after


def _close_gap(before: dict[int, int], after: dict[int, int], older: int, newer: int) -> None:
    """`newer` is gone: who follows it now follows `older`."""
    del before[newer]
    following = after.pop(newer, None)
    if following is None:
        del after[older]
    else:
        after[older], before[following] = following, older


def _merged(older: Merge, newer: Merge) -> Merge:
    """Two neighbours as one. Equal and opposite embeddings have no mean: the shown one's stays."""
    first, second = older.result, newer.result
    shown = older if first.size > second.size else newer
    mean = first.size * first.embedding.astype(np.float64) + second.size * second.embedding
    length = np.linalg.norm(mean)
    embedding = shown.result.embedding
    if length > 1e-6:
        # As it is stored, so that merging at once and one by one end the same.
        embedding = (mean / length).astype(np.float16).astype(np.float32)
    result = replace(
        first,
        embedding=embedding,
        access_count=first.access_count + second.access_count,
        saliency=max(first.saliency, second.saliency),
        size=first.size + second.size,
    )
    return Merge(result, shown.shown, (*older.absorbed, second.id, *newer.absorbed))


def _cosine(first: Part, second: Part) -> float:
    return float(np.dot(first.embedding, second.embedding))
