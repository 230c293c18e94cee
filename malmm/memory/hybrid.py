"""Several rankings of the same memories joined into one: reciprocal rank fusion (Cormack et al. 2009)."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Fused(Generic[Name]):
    """A record's place in the fusion: its score, and its rank (from 1) in each ranking that has it."""

    id: int
    score: float
    ranks: dict[Name, int] = field(default_factory=dict)


def fuse(
    rankings: Mapping[Name, Sequence[int]], weights: Mapping[Name, float], rrf_k: int = 60
) -> list[Fused[Name]]:
    """Join rankings of ids, best first: a record's score is the sum of weight / (rrf_k + rank).

    Ranks need no common scale, so that cosines and BM25 can be joined. A ranking of weight 0 plays no part;
    among equal scores the order is that of the first ranking that has one of them.
    """
    ranks: dict[int, dict[Name, int]] = {}
    for name, ids in rankings.items():
        if weights[name] > 0:
            for rank, id in enumerate(ids, 1):
                ranks.setdefault(id, {})[name] = rank
    fused = [
        Fused(id, sum(weights[name] / (rrf_k + rank) for name, rank in places.items()), places)
        for id, places in ranks.items()
    ]
    return sorted(fused, key=lambda item: -item.score)
