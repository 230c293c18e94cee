"""Merging a user's records in PostgreSQL down to a budget; what is merged is `merging.plan_merges`'."""

from typing import Any

from pgvector import HalfVector
from psycopg import Cursor

from malmm.memory.merging import Merge, Part, plan_merges
from malmm.memory.postgres_queries import BOTH, TABLES, visible

# Locked in the order of ids, as `touch` and `delete` do, so that none of them waits for another in a circle.
PARTS = f"""
SELECT r.id, r.modality, r.embedding, c.access_count, r.saliency, r.size, r.created
FROM {TABLES} WHERE {{where}} AND NOT r.pinned ORDER BY r.id FOR UPDATE
"""
KEEP_ORIGINALS = f"""
INSERT INTO memory_merged SELECT %(into)s, r.*, c.accessed, c.access_count
FROM {TABLES} WHERE r.id = ANY(%(members)s) AND r.size = 1
"""
HAND_OVER = "UPDATE memory_merged SET into_id = %(into)s WHERE into_id = ANY(%(absorbed)s)"
SHOW = """
UPDATE memory_records r SET text = s.text, words = s.words, role = s.role, conversation = s.conversation,
    turn = s.turn, media_path = s.media_path, media_sha256 = s.media_sha256, media_copy = s.media_copy,
    created = s.created, embedding = %(embedding)s, saliency = %(saliency)s, size = %(size)s
FROM memory_records s WHERE r.id = %(into)s AND s.id = %(shown)s
"""
COUNT = """
UPDATE memory_counters c SET access_count = %(access_count)s, accessed = s.accessed
FROM memory_counters s WHERE c.id = %(into)s AND s.id = %(shown)s
"""
REMOVE = "DELETE FROM memory_records WHERE id = ANY(%(absorbed)s)"


def merge_records(cursor: "Cursor[Any]", user: str, budget: int) -> int:
    """Bring a user down to `budget` records, or as near as can be -> how many were merged away."""
    where, values = visible(cursor, user, tables=BOTH)
    ((count,),) = cursor.execute(f"SELECT count(*) FROM {TABLES} WHERE {where}", values)
    if count <= budget:
        return 0
    rows = cursor.execute(PARTS.format(where=where), values).fetchall()
    rows.sort(key=lambda row: (row[-1], row[0]))
    merges = plan_merges([_part(*row[:-1]) for row in rows], count - budget)
    for planned in merges:
        _carry_out(cursor, planned)
    return sum(len(planned.absorbed) for planned in merges)


def _part(id: int, modality: str, embedding: HalfVector, *rest: Any) -> Part:
    return Part(id, modality, embedding.to_numpy().astype("float32"), *rest)


def _carry_out(cursor: "Cursor[Any]", planned: Merge) -> None:
    result = planned.result
    values = {
        "into": result.id,
        "shown": planned.shown,
        "absorbed": list(planned.absorbed),
        "members": [result.id, *planned.absorbed],
        "embedding": HalfVector(result.embedding),
        "access_count": result.access_count,
        "saliency": result.saliency,
        "size": result.size,
    }
    for statement in (KEEP_ORIGINALS, HAND_OVER, SHOW, COUNT, REMOVE):
        cursor.execute(statement, values)
