"""Ways of remembering that an evaluation compares: the recall as it is configured, parts of it, and floors.

Each answers one call: which records of the user, of those made before `now`, are found for a question.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from malmm.memory.recall import Embedder, Recall
from malmm.memory.record import Filters, Query, Record, Vector, Weights
from malmm.memory.settings import MemorySettings, ScoringSettings
from malmm.memory.store import MemoryStore
from malmm.memory.words import content

MEMORY = "memory"  # the first row: the recall as it is configured
RECENCY = "recency only"
BM25 = "BM25 only"
EMBEDDING = "embedding only"
LAST_TURNS = "last 10 turns"
NOTHING = "no memory"
EVIDENCE = "evidence given"  # not a floor but the ceiling: what the reader makes of the right memory
TURNS = 10  # as many as the memory bank of a conversation holds


@dataclass(frozen=True)
class Asked:
    """A question to a user's memory, at a moment in seconds since the epoch; embedding [C] of unit length."""

    user: str
    text: str
    embedding: Vector
    now: float


Find = Callable[[Asked, int, Filters], Sequence[Record]]
"""(question, k, filters) -> at most k records, best first."""


def by_recall(store: MemoryStore, embedder: Embedder, settings: MemorySettings) -> Find:
    """The project's own recall; nothing is counted as an access. A picture is chosen as the chat does it."""
    recall = Recall(store, embedder, settings)

    def find(asked: Asked, k: int, filters: Filters) -> Sequence[Record]:
        found = recall.search(
            asked.text,
            asked.user,
            k,
            filters,
            as_of=asked.now,
            embedding=asked.embedding,
            touch=False,
            words=filters.modality != "vision",
        )
        return [item.record for item in found]

    return find


def by_recency(store: MemoryStore) -> Find:
    """The newest."""
    return lambda asked, k, filters: store.records(asked.user, _before(asked, filters), k)


def by_words(store: MemoryStore) -> Find:
    """BM25 of the question's content words."""

    def find(asked: Asked, k: int, filters: Filters) -> Sequence[Record]:
        scored = store.search_text(asked.user, content(asked.text), k, _before(asked, filters))
        return store.get(asked.user, [id for id, _ in scored])

    return find


def by_embedding(store: MemoryStore) -> Find:
    """Cosine to the question."""

    def find(asked: Asked, k: int, filters: Filters) -> Sequence[Record]:
        query = Query(asked.embedding, asked.user, asked.now, k, Weights(), _before(asked, filters))
        return [match.record for match in store.search(query)]

    return find


def by_turns(store: MemoryStore) -> Find:
    """What was said and shown in the last ten turns, newest first: a conversation without a memory."""

    def find(asked: Asked, k: int, filters: Filters) -> Sequence[Record]:
        turns = store.records(asked.user, replace(_before(asked, Filters()), role="user"), 2 * TURNS)
        last = list(dict.fromkeys((record.conversation, record.turn) for record in turns))[:TURNS]
        kept = [record for record in turns if (record.conversation, record.turn) in last]
        return [r for r in kept if filters.modality in (None, r.modality)][:k]

    return find


def floors(store: MemoryStore) -> dict[str, Find]:
    """The rows that a memory has to beat."""
    return {
        RECENCY: by_recency(store),
        BM25: by_words(store),
        EMBEDDING: by_embedding(store),
        LAST_TURNS: by_turns(store),
        NOTHING: lambda asked, k, filters: [],
    }


def ablations(settings: MemorySettings) -> dict[str, MemorySettings]:
    """The recall with one thing at a time beside the cosines, each modality ranked among itself."""
    own = settings.scoring
    alone = ScoringSettings(1.0, 0.0, 0.0, 0.0, own.half_life_days)
    open_minded = replace(settings.recall, known_words=0.0)
    cosines = replace(open_minded, hybrid="embedding", gate=False)
    bare = replace(settings, scoring=alone, recall=cosines)
    scorings = {
        "+ recency 0.1": replace(alone, recency=0.1),
        "+ recency 0.5": replace(alone, recency=0.5),
        "+ frequency 0.1": replace(alone, frequency=0.1),
        "+ saliency 0.1": replace(alone, saliency=0.1),
    }
    recalls = {
        "+ recency gate": replace(cosines, gate=True),
        "+ BM25": replace(cosines, hybrid="rrf"),
        "+ BM25, gate": replace(cosines, hybrid="rrf", gate=True),
    }
    return {
        "always something": replace(settings, recall=open_minded),
        "relevance": bare,
        **{name: replace(bare, scoring=scoring) for name, scoring in scorings.items()},
        **{name: replace(bare, recall=recall) for name, recall in recalls.items()},
    }


def _before(asked: Asked, filters: Filters) -> Filters:
    before = asked.now if filters.before is None else min(asked.now, filters.before)
    return replace(filters, before=before)
