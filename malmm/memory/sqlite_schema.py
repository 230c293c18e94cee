"""The tables of a SQLite store, and how a file of an older version becomes one of this version.

A new file goes through the same steps as an old one, so that both end with the same tables. What a user said
and was shown lies in tables of his own, `content_<number>` and `words_<number>` (sqlite_content.py).
"""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from malmm.errors import InputError
from malmm.memory.checks import check_identity, encode_identity

APPLICATION_ID = 0x6D616C6D  # "malm": in the file's header, for `file` and for refusing other programs' files

_FIRST = (
    "CREATE TABLE metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # AUTOINCREMENT: a number is never given twice. `last`: the last record's number within the user.
    "CREATE TABLE users (number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, "
    "last INTEGER NOT NULL DEFAULT 0)",
    "CREATE TABLE conversations (number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
    # id: users.number << 32 | the record's number. media_copy: the file in the media folder, or NULL.
    "CREATE TABLE records (id INTEGER PRIMARY KEY, modality INTEGER NOT NULL, "
    "conversation INTEGER NOT NULL REFERENCES conversations (number), turn INTEGER, "
    "media_sha256 TEXT, media_copy TEXT, created REAL NOT NULL, saliency REAL NOT NULL, "
    "pinned INTEGER NOT NULL, size INTEGER NOT NULL)",
    "CREATE INDEX records_conversation ON records (conversation)",
    "CREATE INDEX records_media ON records (media_copy) WHERE media_copy IS NOT NULL",
    "CREATE TABLE counters (id INTEGER PRIMARY KEY REFERENCES records (id) ON DELETE CASCADE, "
    "accessed REAL NOT NULL, access_count INTEGER NOT NULL)",
    # What changed, in the order of the transactions: records first to last, or only their counters.
    "CREATE TABLE changes (number INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL, "
    "only_counters INTEGER NOT NULL)",
    # Media copies that may be without a record: about to be written, or of deleted records.
    "CREATE TABLE leftovers (media_copy TEXT PRIMARY KEY) WITHOUT ROWID",
)
_MERGED_AND_ROLES = (
    "ALTER TABLE records ADD COLUMN role INTEGER NOT NULL DEFAULT 0",
    "CREATE TABLE merged (id INTEGER PRIMARY KEY, "
    "into_id INTEGER NOT NULL REFERENCES records (id) ON DELETE CASCADE, "
    "modality INTEGER NOT NULL, role INTEGER NOT NULL, "
    "conversation INTEGER NOT NULL REFERENCES conversations (number), turn INTEGER, "
    "media_sha256 TEXT, media_copy TEXT, created REAL NOT NULL, accessed REAL NOT NULL, "
    "access_count INTEGER NOT NULL, saliency REAL NOT NULL, size INTEGER NOT NULL)",
    "CREATE INDEX merged_into ON merged (into_id)",
    "CREATE INDEX merged_conversation ON merged (conversation)",
    "CREATE INDEX merged_media ON merged (media_copy) WHERE media_copy IS NOT NULL",
)
STEPS = (_FIRST, _MERGED_AND_ROLES)  # STEPS[n] leads from version n to n + 1; version 0 is an empty file
VERSION = len(STEPS)


def check_kind(db: sqlite3.Connection, path: Path) -> None:
    """Raises InputError for a database of another program or of a newer version; nothing is written."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (tables or version):
        raise InputError(f"{path} is a database of another program, not a memory: name another file")
    if version > VERSION:
        raise InputError(
            f"the memory {path} has schema version {version}, this program reads up to {VERSION}: "
            "update the program, or name another file"
        )


def prepare(db: sqlite3.Connection, path: Path, width: int, encoder: Mapping[str, Any]) -> None:
    """Make the tables, bring older ones up to date, and compare the encoder; inside a write transaction.

    Raises InputError where the file is of another program, a newer version, another width or encoder.
    """
    check_kind(db, path)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for step in STEPS[version:]:
        for statement in step:
            db.execute(statement)
    if version < VERSION:
        db.execute(f"PRAGMA user_version = {VERSION}")
    if version == 0:
        metadata = {"width": str(width), "encoder": encode_identity(encoder)}
        db.executemany("INSERT INTO metadata VALUES (?, ?)", metadata.items())
    metadata = dict(db.execute("SELECT key, value FROM metadata"))
    check_identity(str(path), int(metadata["width"]), metadata["encoder"], width, encoder)
