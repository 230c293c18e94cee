"""Adding and deleting records in a SQLite store, inside the caller's transaction."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence

from malmm.memory.checks import ROLES
from malmm.memory.index import USER_BITS
from malmm.memory.media import copy_name
from malmm.memory.record import Draft, Vector
from malmm.memory.sqlite_content import add_content, drop_tables, erase, make_tables
from malmm.memory.sqlite_fetch import pack
from malmm.memory.sqlite_index import log_changes
from malmm.memory.sqlite_rows import MODALITIES, by_user, number_of_user, of_ids, of_user, storable


def insert_drafts(
    db: sqlite3.Connection, drafts: Sequence[Draft], vectors: Sequence[Vector], now: float
) -> list[int]:
    """Insert records with their vectors, counters and words -> their ids, in order."""
    free = {user: _take_numbers(db, user, count) for user, count in Counter(d.user for d in drafts).items()}
    conversations = {name: _number_conversation(db, name) for name in {d.conversation for d in drafts}}
    ids = [next(free[draft.user]) for draft in drafts]
    times = [now if draft.created is None else float(draft.created) for draft in drafts]
    db.executemany(
        "INSERT INTO records (id, modality, role, conversation, turn, media_sha256, "
        "media_copy, created, saliency, pinned, size) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                id, MODALITIES.index(draft.modality), ROLES.index(draft.role),
                conversations[draft.conversation], draft.turn, *_media_columns(draft), created,
                float(draft.saliency), draft.pinned, draft.size,
            )
            for id, created, draft in zip(ids, times, drafts, strict=True)
        ],
    )  # fmt: skip
    accessed = [
        created if draft.accessed is None else float(draft.accessed)
        for created, draft in zip(times, drafts, strict=True)
    ]
    counts = [draft.access_count for draft in drafts]
    db.executemany("INSERT INTO counters VALUES (?, ?, ?)", zip(ids, accessed, counts, strict=True))
    content = {
        id: (
            id,
            storable(draft.text),
            None if draft.media is None else storable(draft.media.path),
            pack(vector),
        )
        for id, draft, vector in zip(ids, drafts, vectors, strict=True)
    }
    for user, own in by_user(ids).items():
        add_content(db, user, [content[id] for id in own])
    log_changes(db, ids)
    return ids


def _take_numbers(db: sqlite3.Connection, name: str, count: int) -> Iterator[int]:
    """The next ids of a user, who is entered where he is new. Of deleted records none is given again."""
    new = number_of_user(db, name) is None
    if new:
        db.execute("INSERT INTO users (name) VALUES (?)", (name,))
    number, last = db.execute(
        "UPDATE users SET last = last + ? WHERE name = ? RETURNING number, last", (count, name)
    ).fetchone()
    if new:
        make_tables(db, number)
    first = (number << USER_BITS) + last - count + 1
    return iter(range(first, first + count))


def _number_conversation(db: sqlite3.Connection, name: str) -> int:
    db.execute("INSERT INTO conversations (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
    return db.execute("SELECT number FROM conversations WHERE name = ?", (name,)).fetchone()[0]


def _media_columns(draft: Draft) -> tuple[str | None, str | None]:
    """The sha256, and the name of the copy."""
    media = draft.media
    if media is None:
        return None, None
    return media.sha256, copy_name(media) if media.copied else None


def update_record(
    db: sqlite3.Connection, id: int, text: str | None, saliency: float | None, pinned: bool | None
) -> None:
    """Change what is given of a record that is there; nothing of the text before remains."""
    user = id >> USER_BITS
    if text is not None:
        db.execute(f"UPDATE content_{user} SET text = ? WHERE id = ?", (storable(text), id))
        erase(db, user)
    db.execute(
        "UPDATE records SET saliency = coalesce(?, saliency), pinned = coalesce(?, pinned) WHERE id = ?",
        (saliency, pinned, id),
    )
    log_changes(db, [id])


def delete_records(db: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Delete records of one user, at least one, and all that only they needed but the files of media."""
    user = ids[0] >> USER_BITS
    condition = of_ids(ids)
    rows = db.execute(
        f"SELECT id, conversation, media_copy FROM records WHERE {condition.sql}", condition.parameters
    ).fetchall()
    merged = db.execute(
        f"SELECT -id, conversation, media_copy FROM merged WHERE into_{condition.sql}",
        condition.parameters,
    ).fetchall()
    db.execute(f"DELETE FROM records WHERE {condition.sql}", condition.parameters)  # others by cascade
    db.executemany(f"DELETE FROM content_{user} WHERE id = ?", [row[:1] for row in (*rows, *merged)])
    log_changes(db, list(ids))
    copies = {row[2] for row in (*rows, *merged)} - {None}
    db.executemany("INSERT OR IGNORE INTO leftovers VALUES (?)", [(copy,) for copy in copies])
    db.executemany(
        "DELETE FROM conversations WHERE number = ?1 "
        "AND NOT EXISTS (SELECT 1 FROM records WHERE conversation = ?1) "
        "AND NOT EXISTS (SELECT 1 FROM merged WHERE conversation = ?1)",
        [(number,) for number in {row[1] for row in (*rows, *merged)}],
    )
    own = of_user(user)
    if db.execute(f"SELECT 1 FROM records WHERE {own.sql} LIMIT 1", own.parameters).fetchone():
        erase(db, user)
    else:
        drop_tables(db, user)
        db.execute("DELETE FROM users WHERE number = ?", (user,))


def take_leftovers(db: sqlite3.Connection) -> list[str]:
    """The media copies that no record needs; the list of those that might be without one is emptied."""
    rows = db.execute(
        "SELECT media_copy FROM leftovers WHERE "
        "NOT EXISTS (SELECT 1 FROM records WHERE records.media_copy = leftovers.media_copy) AND "
        "NOT EXISTS (SELECT 1 FROM merged WHERE merged.media_copy = leftovers.media_copy)"
    ).fetchall()
    db.execute("DELETE FROM leftovers")
    return [name for (name,) in rows]
