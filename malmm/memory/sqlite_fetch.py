"""Reading records, vectors and what the index needs from a SQLite store, inside the caller's transaction."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malmm.memory.checks import ROLES
from malmm.memory.index import Ids, Rows
from malmm.memory.record import Match, Media, Record, Terms, Vector
from malmm.memory.scoring import Floats
from malmm.memory.sqlite_rows import MODALITIES, Condition, by_user, of_ids

_VECTOR = np.dtype("<f2")
_COLUMNS = (
    "text, embedding, modality, role, conversations.name, turn, media_path, media_sha256, media_copy, "
    "created, accessed, access_count, saliency, size"
)
_CONVERSATION = "JOIN conversations ON conversations.number = conversation"


def of_records(user: int) -> str:
    """The tables of a user's records, joined in this order. user: his number."""
    return f"content_{user} CROSS JOIN records USING (id) CROSS JOIN counters USING (id)"


def pack(vector: NDArray[np.floating]) -> bytes:
    """A vector as it is stored, float16."""
    return vector.astype(_VECTOR).tobytes()


def unpack(blob: bytes) -> Vector:
    """A stored vector, float32 [C]."""
    return np.frombuffer(blob, _VECTOR).astype(np.float32)


def fetch_records(db: sqlite3.Connection, user: int, ids: Sequence[int]) -> list[Record]:
    """The records with these ids that the user, given by number, has, in the order of `ids`."""
    condition = of_ids(ids)
    rows = db.execute(
        f"SELECT id, pinned, {_COLUMNS} FROM {of_records(user)} {_CONVERSATION} WHERE {condition.sql}",
        condition.parameters,
    )
    name = _name(db, user)
    records = {row[0]: _record(name, row) for row in rows}
    return [records[id] for id in ids if id in records]


def fetch_merged(db: sqlite3.Connection, user: int, into: int) -> list[Record]:
    """The records that were merged into one, oldest first."""
    rows = db.execute(
        f"SELECT merged.id, 0, {_COLUMNS} FROM merged JOIN content_{user} ON content_{user}.id = -merged.id "
        f"{_CONVERSATION} WHERE into_id = ? ORDER BY created, merged.id",
        (into,),
    )
    name = _name(db, user)
    return [_record(name, row) for row in rows]


def _name(db: sqlite3.Connection, user: int) -> str:
    return db.execute("SELECT name FROM users WHERE number = ?", (user,)).fetchone()[0]


def _record(user: str, row: Sequence[Any]) -> Record:
    (id, pinned, text, embedding, modality, role, conversation, turn, path, sha256, copy, *rest) = row
    created, accessed, access_count, saliency, size = rest
    return Record(
        id=id,
        user=user,
        text=text,
        embedding=unpack(embedding),
        modality=MODALITIES[modality],
        role=ROLES[role],
        conversation=conversation,
        turn=turn,
        media=None if path is None else Media(path, sha256, copied=copy is not None),
        created=created,
        accessed=accessed,
        access_count=access_count,
        saliency=saliency,
        pinned=bool(pinned),
        size=size,
    )


def fetch_matches(db: sqlite3.Connection, ids: Ids, scores: Floats, terms: Floats) -> list[Match]:
    """Records that are there, of any users, with scores [n] and terms [n, 4]."""
    records = {
        record.id: record for user, own in by_user(ids).items() for record in fetch_records(db, user, own)
    }
    return [
        Match(records[id], score, Terms(*four))
        for id, score, four in zip(ids.tolist(), scores.tolist(), terms.tolist(), strict=True)
    ]


def fetch_vectors(db: sqlite3.Connection, ids: Iterable[int]) -> dict[int, Vector]:
    """The vectors of records that are there, of any users, by id."""
    vectors: dict[int, Vector] = {}
    for user, own in by_user(ids).items():
        condition = of_ids(own)
        rows = db.execute(
            f"SELECT id, embedding FROM content_{user} WHERE {condition.sql}", condition.parameters
        )
        vectors |= {id: unpack(blob) for id, blob in rows}
    return vectors


def fetch_index_rows(db: sqlite3.Connection, width: int, user: int, condition: Condition) -> Rows:
    """What the index keeps of the records of a user, given by number, that meet the condition."""
    rows = db.execute(
        "SELECT id, embedding, created, accessed, access_count, CASE WHEN pinned THEN 1.0 ELSE saliency END, "
        f"modality, role, pinned, conversation FROM {of_records(user)} WHERE {condition.sql}",
        condition.parameters,
    ).fetchall()
    ids, blobs, *columns = zip(*rows, strict=True) if rows else ((),) * 10
    types = (np.float64, np.float64, np.int64, np.float32, np.int8, np.int8, np.bool_, np.int64)
    return Rows(
        np.array(ids, np.int64),
        np.frombuffer(b"".join(blobs), _VECTOR).reshape(-1, width).astype(np.float16),
        *(np.array(column, type) for column, type in zip(columns, types, strict=True)),
    )
