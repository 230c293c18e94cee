"""Numbers that a SQLite store has for names, and conditions on its rows."""

import json
import sqlite3
from collections.abc import Iterable
from typing import Any, NamedTuple

from malmm.memory.checks import ROLES
from malmm.memory.index import USER_BITS, Restriction
from malmm.memory.record import Filters, Modality

# Their numbers in the file: only ever append.
MODALITIES: tuple[Modality, ...] = ("text", "vision", "audio", "video")


class Condition(NamedTuple):
    """A WHERE clause and its parameters."""

    sql: str
    parameters: tuple[Any, ...]


EVERY_ROW = Condition("TRUE", ())


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


def by_user(ids: Iterable[int]) -> dict[int, list[int]]:
    """The ids of each user, by number."""
    parts: dict[int, list[int]] = {}
    for id in ids:
        parts.setdefault(int(id) >> USER_BITS, []).append(int(id))
    return parts


def of_named(db: sqlite3.Connection, name: str | None) -> Condition:
    """Records of a user, or of all users (None)."""
    if name is None:
        return EVERY_ROW
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
