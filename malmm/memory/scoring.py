"""The score of a memory, the one definition in NumPy: search, explanation and tests all use it."""

import numpy as np
from numpy.typing import NDArray

from malmm.memory.record import Vector, Weights

Floats = NDArray[np.float64]


def cosines(vectors: NDArray[np.floating], query: Vector) -> Floats:
    """Inner products of unit vectors [n, C] with a unit query [C] -> [n].

    Equal rows give equal products wherever they stand, which a matrix product of BLAS does not promise: ties
    are broken by id, so they must be ties.
    """
    products = np.multiply(vectors, query[None], dtype=np.float64)
    return np.add.reduce(products, axis=1)


def score_terms(
    cosine: Floats,
    created: Floats,
    accessed: Floats,
    counts: NDArray[np.int64],
    saliency: NDArray[np.floating],
    now: float,
    weights: Weights,
    most_counts: NDArray[np.int64] | int,
) -> tuple[Floats, Floats]:
    """Scores [n] and their terms [n, 4]: relevance, recency, frequency, saliency, each in [0, 1].

    created, accessed, counts, saliency: [n]; a pinned record's saliency is 1.
    most_counts: n_max of `Weights`, one for all or [n]. What was accessed after `now` has age 0.
    """
    terms = np.empty((len(cosine), 4))
    np.clip(cosine, 0.0, 1.0, out=terms[:, 0])
    born = created if weights.age_from == "created" else accessed
    terms[:, 1] = np.exp2(-np.maximum(now - born, 0.0) / weights.half_life)
    terms[:, 2] = np.log1p(counts) / np.log1p(np.maximum(most_counts, 1))  # never recalled: 0, not 0 / 0
    terms[:, 3] = saliency
    scores = weights.relevance * terms[:, 0] + weights.recency * terms[:, 1]
    scores += weights.frequency * terms[:, 2] + weights.saliency * terms[:, 3]
    return scores, terms
