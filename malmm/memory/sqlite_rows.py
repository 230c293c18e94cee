"""Between the rows of a SQLite store and the records of the interface: numbers, conditions, columns."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from malmm.memory.checks import ROLES
from malmm.memory.index import USER_BITS, Ids, Restriction, Rows
from malmm.memory.record import Filters, Match, Media, Modality, Record, Terms, Vector
from malmm.memory.scoring import Floats

MODALITIES: tuple[Modality, ...] = (
    "text",
    "vision",
    "audio",
    "video",
)  # their numbers in the file: only ever append
_VECTOR = np.dtype("<f2")

RECORDS = "records JOIN vectors USING (id) JOIN counters USING (id)"
_COLUMNS = (
    "id, text, embedding, modality, role, conversations.name, turn, media_path, media_sha256, "
    "media_copy, created, accessed, access_count, saliency, "
)
_SELECT_RECORDS = (
    f"SELECT {_COLUMNS} pinned, size FROM {RECORDS} JOIN conversations ON conversations.number = conversation"
)
_SELECT_MERGED = (
    f"SELECT {_COLUMNS} 0, 1 FROM merged JOIN conversations ON conversations.number = conversation"
)


class Condition(NamedTuple):
    """A WHERE clause and its parameters."""

    sql: str
    parameters: tuple[Any, ...]


def of_user(number: int) -> Condition:
    """Records of a user, given by number: a range of ids."""
    return Condition("id BETWEEN ? AND ?", (number << USER_BITS, ((number + 1) << USER_BITS) - 1))


def of_ids(ids: Iterable[int]) -> Condition:
    """Records with these ids."""
    return Condition("id IN (SELECT value FROM json_each(?))", (json.dumps([int(id) for id in ids]),))


def passing(filters: Filters) -> Condition:
    """Records that the filters let through."""
    conversation = "(SELECT number FROM conversations WHERE name = ?)"
    wanted = {
        f"conversation = {conversation}": filters.conversation,
        f"conversation IS NOT {conversation}": filters.exclude_conversation,
        "modality = ?": None if filters.modality is None else MODALITIES.index(filters.modality),
        "role = ?": None if filters.role is None else _number_of_role(filters.role),
        "created >= ?": filters.after,
        "created < ?": filters.before,
        "pinned = ?": filters.pinned,
    }
    set_ones = {sql: value for sql, value in wanted.items() if value is not None}
    return Condition(" AND ".join(set_ones) or "TRUE", tuple(set_ones.values()))


def both(*conditions: Condition) -> Condition:
    """All of the conditions."""
    return Condition(
        " AND ".join(condition.sql for condition in conditions),
        tuple(value for condition in conditions for value in condition.parameters),
    )


def restriction(db: sqlite3.Connection, filters: Filters) -> Restriction:
    """The filters in this store's numbers."""
    return Restriction(
        conversation=_number_of_conversation(db, filters.conversation),
        exclude_conversation=_number_of_conversation(db, filters.exclude_conversation),
        modality=None if filters.modality is None else MODALITIES.index(filters.modality),
        role=None if filters.role is None else _number_of_role(filters.role),
        after=filters.after,
        before=filters.before,
        pinned=filters.pinned,
    )


def number_of_user(db: sqlite3.Connection, name: str) -> int | None:
    """A user's number, None where he has no records."""
    row = db.execute("SELECT number FROM users WHERE name = ?", (name,)).fetchone()
    return None if row is None else row[0]


def of_named(db: sqlite3.Connection, name: str | None) -> Condition:
    """Records of a user, or of all users (None)."""
    if name is None:
        return Condition("TRUE", ())
    number = number_of_user(db, name)
    return Condition("FALSE", ()) if number is None else of_user(number)


def own_ids(db: sqlite3.Connection, name: str, ids: Iterable[int]) -> list[int]:
    """Those of the ids that are records of the user, each once."""
    condition = both(of_named(db, name), of_ids(ids))
    return [
        id for (id,) in db.execute(f"SELECT id FROM counters WHERE {condition.sql}", condition.parameters)
    ]


def _number_of_conversation(db: sqlite3.Connection, name: str | None) -> int | None:
    """A conversation's number, -1 for one that no record is of; None for None."""
    if name is None:
        return None
    row = db.execute("SELECT number FROM conversations WHERE name = ?", (name,)).fetchone()
    return -1 if row is None else row[0]


def _number_of_role(role: str) -> int:
    return ROLES.index(role) if role in ROLES else -1


def storable(text: str) -> str:
    """The text; what is no Unicode in it (of a file's name, say) as the escape that Python has for it."""
    return text.encode("utf-8", "backslashreplace").decode()


def pack(vector: NDArray[np.floating]) -> bytes:
    """A vector as it is stored, float16."""
    return vector.astype(_VECTOR).tobytes()


def unpack(blob: bytes) -> Vector:
    """A stored vector, float32 [C]."""
    return np.frombuffer(blob, _VECTOR).astype(np.float32)


def fetch_records(db: sqlite3.Connection, user: str, condition: Condition, rest: str = "") -> list[Record]:
    """Records of `user` that meet the condition; it has to see to it that they are the user's."""
    rows = db.execute(f"{_SELECT_RECORDS} WHERE {condition.sql} {rest}", condition.parameters)
    return [_record(user, row) for row in rows]


def fetch_merged(db: sqlite3.Connection, user: str, into: int) -> list[Record]:
    """The records that were merged into one, oldest first."""
    rows = db.execute(f"{_SELECT_MERGED} WHERE into_id = ? ORDER BY created, id", (into,))
    return [_record(user, row) for row in rows]


def _record(user: str, row: Sequence[Any]) -> Record:
    (id, text, embedding, modality, role, conversation, turn, path, sha256, copy, *rest) = row
    created, accessed, access_count, saliency, pinned, size = rest
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
    numbers = {id >> USER_BITS for id in ids.tolist()}
    names = {
        number: db.execute("SELECT name FROM users WHERE number = ?", (number,)).fetchone()[0]
        for number in numbers
    }
    records = {
        record.id: record
        for number in numbers
        for record in fetch_records(db, names[number], both(of_user(number), of_ids(ids)))
    }
    return [
        Match(records[id], score, Terms(*four))
        for id, score, four in zip(ids.tolist(), scores.tolist(), terms.tolist(), strict=True)
    ]


def fetch_vectors(db: sqlite3.Connection, ids: Iterable[int]) -> dict[int, Vector]:
    """The vectors of those of the records that there are, by id."""
    condition = of_ids(ids)
    rows = db.execute(f"SELECT id, embedding FROM vectors WHERE {condition.sql}", condition.parameters)
    return {id: unpack(blob) for id, blob in rows}


def fetch_index_rows(db: sqlite3.Connection, width: int, condition: Condition) -> Rows:
    """What the index keeps of the records that meet the condition."""
    rows = db.execute(
        "SELECT id, embedding, created, accessed, access_count, CASE WHEN pinned THEN 1.0 ELSE saliency END, "
        f"modality, role, pinned, conversation FROM {RECORDS} WHERE {condition.sql}",
        condition.parameters,
    ).fetchall()
    ids, blobs, *columns = zip(*rows, strict=True) if rows else ((),) * 10
    types = (np.float64, np.float64, np.int64, np.float32, np.int8, np.int8, np.bool_, np.int64)
    return Rows(
        np.array(ids, np.int64),
        np.frombuffer(b"".join(blobs), _VECTOR).reshape(-1, width).astype(np.float16),
        *(np.array(column, type) for column, type in zip(columns, types, strict=True)),
    )
