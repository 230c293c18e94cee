"""Copies of pictures, sounds and films in PostgreSQL, for every machine, by the sha256 of their bytes."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from psycopg import Cursor
from psycopg.errors import ForeignKeyViolation

from malmm.errors import InputError
from malmm.memory.record import Media

MOST_BYTES = (
    1 << 29
)  # of one copy: PostgreSQL takes 1 GB at once, and client and server each hold it in memory


def keep_media(cursor: "Cursor[Any]", media: Media) -> None:
    """Copy the file, unless its bytes are there already, in the cursor's transaction.

    Raises InputError where it cannot be read, is too large, or holds other bytes than it did.
    """
    # Whoever deletes the last record with this copy waits for the lock, and then finds a new record with it.
    held = cursor.execute("SELECT FROM memory_media WHERE sha256 = %s FOR KEY SHARE", [media.sha256])
    if held.rowcount:
        return
    file = Path(media.source or media.path)
    try:
        if file.stat().st_size > MOST_BYTES:
            raise InputError(
                f"{media.path} is larger than the {MOST_BYTES >> 20} MB that a copy in PostgreSQL may have: "
                "remember it without a copy"
            )
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{media.path} cannot be copied into the memory ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != media.sha256:
        raise InputError(f"{media.path} has changed while it was remembered: show it again")
    cursor.execute("INSERT INTO memory_media VALUES (%s, %s) ON CONFLICT DO NOTHING", [media.sha256, data])


def fetch_media(cursor: "Cursor[Any]", sha256: str) -> bytes | None:
    """The bytes of a copy, None where there is none."""
    row = cursor.execute("SELECT data FROM memory_media WHERE sha256 = %s", [sha256]).fetchone()
    return None if row is None else bytes(row[0])


def release_media(cursor: "Cursor[Any]", copies: Iterable[str]) -> list[str]:
    """Delete those of the copies that no record has, nor one that was merged; -> which."""
    gone = []
    for sha256 in sorted(copies):
        try:
            with cursor.connection.transaction():  # a refusal undoes this one deletion
                cursor.execute("DELETE FROM memory_media WHERE sha256 = %s", [sha256])
        except ForeignKeyViolation:
            continue
        gone.append(sha256)
    return gone
