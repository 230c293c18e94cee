"""What memory_store.py compares the long-term memory with: a plain full scan, and a library's index."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from memory_corpus import NOW, WIDTH, Vectors
from numpy.typing import NDArray

from malmm.memory.record import Vector, Weights
from malmm.memory.scoring import Floats, score_terms
from malmm.memory.store import MemoryStore

BATCH = 1000  # records that the library's index takes at once


class PlainScan:
    """All records of a store as arrays, users in order; a search scores every one of them."""

    def __init__(self, store: MemoryStore, size: int, names: Sequence[str], k: int, weights: Weights) -> None:
        self.k, self.weights = k, weights
        self.ids = np.empty(size, np.int64)
        self.vectors: Vectors = np.empty((size, WIDTH), np.float32)
        self.created, self.accessed, self.counts, self.saliency, self.most_counts = np.empty((5, size))
        self.starts = [0]
        for name in names:
            records = store.records(name, limit=size, newest_first=False)
            for at, record in enumerate(records, self.starts[-1]):
                self.ids[at], self.vectors[at] = record.id, record.embedding
                self.created[at], self.accessed[at] = record.created, record.accessed
                self.counts[at] = record.access_count
                self.saliency[at] = 1.0 if record.pinned else record.saliency
            own = slice(self.starts[-1], self.starts[-1] + len(records))
            self.most_counts[own] = self.counts[own].max(initial=0)
            self.starts.append(own.stop)

    def search(self, query: Vector, user: int | None) -> list[int]:
        """Ids of the k best of a user's records, or of all."""
        rows = slice(None) if user is None else slice(self.starts[user], self.starts[user + 1])
        return self.best((self.vectors[rows] @ query).astype(np.float64), rows)

    def best(self, cosine: Floats, rows: slice | NDArray[np.int64]) -> list[int]:
        """Ids of the k best of these rows, whose cosines are given."""
        scores, _ = score_terms(
            cosine, self.created[rows], self.accessed[rows], self.counts[rows], self.saliency[rows],
            NOW, self.weights, self.most_counts[rows],
        )  # fmt: skip
        top = np.argpartition(-scores, min(self.k, len(scores)) - 1)[: self.k]
        return self.ids[rows][top[np.argsort(-scores[top])]].tolist()


class LibraryIndex:
    """qdrant-edge: its graph's nearest by cosine, then scored with the other terms and ordered."""

    def __init__(self, plain: PlainScan, folder: Path, candidates: int) -> None:
        folder.mkdir()
        self._plain, self._candidates = plain, candidates
        vectors = edge.EdgeVectorParams(
            size=WIDTH,
            distance=edge.Distance.Dot,
            datatype=edge.VectorStorageDatatype.Float16,
            hnsw_config=edge.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10_000),
        )
        self._shard = edge.EdgeShard.create(str(folder), edge.EdgeConfig(vectors=vectors))
        for user, (start, end) in enumerate(itertools.pairwise(plain.starts)):
            for first in range(start, end, BATCH):
                rows = range(first, min(first + BATCH, end))
                points = [edge.Point(row, plain.vectors[row].tolist(), {"user": user}) for row in rows]
                self._shard.update(edge.UpdateOperation.upsert_points(points))
        self._shard.update(edge.UpdateOperation.create_field_index("user", edge.PayloadSchemaType.Integer))
        self._shard.optimize()

    def search(self, query: Vector, user: int | None) -> list[int]:
        """Ids of the k best of the candidates."""
        own: list[Any] = [] if user is None else [edge.FieldCondition("user", match=edge.MatchValue(user))]
        points = self._shard.search(
            edge.SearchRequest(
                query=edge.Query.Nearest(query.tolist()),
                limit=self._candidates,
                filter=edge.Filter(must=own),
                params=edge.SearchParams(hnsw_ef=max(self._candidates, 128)),
            )
        )
        cosine = np.array([point.score for point in points], np.float64)
        return self._plain.best(cosine, np.array([point.id for point in points], np.int64))

    def close(self) -> None:
        """Let go of its files."""
        self._shard.close()
