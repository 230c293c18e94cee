"""Adding, counting and deleting records in PostgreSQL, in the caller's transaction."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pgvector import HalfVector
from psycopg import Cursor

from malmm.memory.index import USER_BITS
from malmm.memory.postgres_media import keep_media, release_media
from malmm.memory.postgres_queries import BOTH, TABLES, folded, visible
from malmm.memory.record import Draft, Vector

ALLOT = "UPDATE memory_users SET allotted = allotted + %s WHERE name = %s RETURNING number, allotted"
ENTER = """
INSERT INTO memory_users (allotted, name) VALUES (%s, %s)
ON CONFLICT (name) DO UPDATE SET allotted = memory_users.allotted + excluded.allotted
RETURNING number, allotted
"""
INSERT = """
WITH new AS (
    INSERT INTO memory_records (id, text, words, embedding, modality, role, conversation, turn,
        media_path, media_sha256, media_copy, created, saliency, pinned, size)
    VALUES (%s, %s, to_tsvector('simple', %s), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    RETURNING id, created
)
INSERT INTO memory_counters (id, accessed, access_count) SELECT id, coalesce(%s, created), %s FROM new
"""
# No two calls wait for each other in a circle: all lock users by name, then records with their counters by
# id, then media by sha256.
TOUCH = """
WITH chosen AS (
    SELECT r.id FROM memory_counters r WHERE {where} AND r.id = ANY(%(ids)s) ORDER BY r.id FOR UPDATE
)
UPDATE memory_counters c SET access_count = access_count + 1, accessed = %(at)s
FROM chosen WHERE c.id = chosen.id
"""
UPDATE = """
UPDATE memory_records r SET text = coalesce(%(text)s, text), saliency = coalesce(%(saliency)s, saliency),
    words = coalesce(to_tsvector('simple', %(words)s), words), pinned = coalesce(%(pinned)s, pinned)
WHERE {where} AND r.id = %(id)s
"""
CONDEMNED = f"""
SELECT r.id, r.media_copy FROM {TABLES} WHERE {{where}} AND r.id = ANY(%(ids)s) ORDER BY r.id FOR UPDATE
"""


def insert_drafts(
    cursor: "Cursor[Any]", drafts: Sequence[Draft], vectors: Sequence[Vector], now: float
) -> list[int]:
    """Insert records with their counters and copies of their media -> their ids, in order."""
    ids = _allot(cursor, [draft.user for draft in drafts])
    media = {draft.media.sha256: draft.media for draft in drafts if draft.media and draft.media.copied}
    for sha256 in sorted(media):
        keep_media(cursor, media[sha256])
    cursor.executemany(INSERT, [_row(*entry, now) for entry in zip(ids, drafts, vectors, strict=True)])
    return ids


def _allot(cursor: "Cursor[Any]", users: Sequence[str]) -> list[int]:
    """An id for each draft, in order; the users' rows stay locked to the end of the transaction."""
    free = {}
    for user, count in sorted(Counter(users).items()):
        row = cursor.execute(ALLOT, [count, user]).fetchone()
        if row is None:
            row = cursor.execute(ENTER, [count, user]).fetchone()
            assert row is not None  # it enters the user, or finds who has entered him since
        number, allotted = row
        last = (number << USER_BITS) + allotted
        free[user] = iter(range(last - count + 1, last + 1))
    return [next(free[user]) for user in users]


def _row(id: int, draft: Draft, vector: Vector, now: float) -> tuple[Any, ...]:
    """The values of `INSERT`."""
    media = draft.media
    return (
        id, draft.text, folded(draft.text), HalfVector(vector), draft.modality, draft.role,
        draft.conversation, draft.turn, media and media.path, media and media.sha256,
        media.sha256 if media and media.copied else None,
        now if draft.created is None else draft.created, draft.saliency, draft.pinned,
        draft.size, draft.accessed, draft.access_count,
    )  # fmt: skip


def touch_records(cursor: "Cursor[Any]", user: str, ids: Sequence[int], at: float) -> None:
    """Count an access of each record."""
    where, values = visible(cursor, user)
    cursor.execute(TOUCH.format(where=where), {**values, "ids": list(ids), "at": at})


def update_record(
    cursor: "Cursor[Any]", user: str, id: int, text: str | None, saliency: float | None, pinned: bool | None
) -> bool:
    """Change what is not None; False where there is no such record."""
    where, values = visible(cursor, user)
    words = None if text is None else folded(text)
    changes = {"text": text, "words": words, "saliency": saliency, "pinned": pinned}
    cursor.execute(UPDATE.format(where=where), {**values, **changes, "id": id})
    return cursor.rowcount > 0


def delete_records(cursor: "Cursor[Any]", user: str, ids: Sequence[int]) -> tuple[int, list[str]]:
    """Delete records and all that only they needed -> how many there were, which media copies are gone."""
    # Who adds records of this user changes this row first: nobody does between here and the end.
    cursor.execute("SELECT FROM memory_users WHERE name = %s FOR UPDATE", [user])
    where, values = visible(cursor, user, tables=BOTH)
    rows = cursor.execute(CONDEMNED.format(where=where), {**values, "ids": list(ids)}).fetchall()
    own = [id for id, _ in rows]
    merged = cursor.execute("SELECT media_copy FROM memory_merged WHERE into_id = ANY(%s)", [own]).fetchall()
    copies = {row[-1] for row in (*rows, *merged)} - {None}
    cursor.execute("DELETE FROM memory_records WHERE id = ANY(%s)", [own])  # the rest by cascade
    cursor.execute(
        f"DELETE FROM memory_users WHERE name = %(user)s AND NOT EXISTS (SELECT FROM {TABLES} WHERE {where})",
        {**values, "user": user},
    )
    return len(rows), release_media(cursor, copies)
