"""Every item that is to be encoded and every distinct content, in a file: memory does not grow with them."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from extraction.kinds import KINDS

# Scratch: nothing is lost with it, so nothing is synced; and its pages are not to fill the memory either.
# Names of files, and messages with them, may hold any bytes.
SETUP = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -8000;
CREATE TABLE files (source BLOB PRIMARY KEY, kind TEXT) WITHOUT ROWID;
CREATE TABLE contents (id INTEGER PRIMARY KEY, kind TEXT, place INTEGER, digest BLOB, source BLOB, text TEXT,
                       fault BLOB);
CREATE UNIQUE INDEX content_of_digest ON contents (kind, digest);
CREATE UNIQUE INDEX content_of_place ON contents (kind, place);
CREATE TABLE items (id INTEGER PRIMARY KEY, source BLOB, line INTEGER, kind TEXT, content INTEGER,
                    fault BLOB);
BEGIN;
"""


class Content(NamedTuple):
    """A distinct content: its sha256, the first file that has it, and of a text the text itself."""

    place: int
    digest: bytes
    source: str
    text: str | None


class Catalogue:
    """Items in the order of their files' names and lines, and their contents as they first appear in it.

    `place` counts the contents of one kind. A context manager: the file at `path` is gone afterwards.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts = dict.fromkeys(KINDS, 0)
        self.num_items = 0

    def __enter__(self) -> "Catalogue":
        # Not locked: nobody else opens it, and some network file systems have no locks.
        place = f"{self.path.absolute().as_uri()}?nolock=1"
        self._database = sqlite3.connect(place, uri=True, isolation_level=None)
        self._database.executescript(SETUP)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
        self.path.unlink(missing_ok=True)

    def add_file(self, source: str, kind: str) -> None:
        """Take a file in, once however often it is named."""
        self._database.execute("INSERT OR IGNORE INTO files VALUES (?, ?)", (os.fsencode(source), kind))

    def files(self) -> Iterator[tuple[str, str]]:
        """The files that were taken in and their kinds, in the order of their names' bytes."""
        for source, kind in self._database.execute("SELECT source, kind FROM files ORDER BY source"):
            yield os.fsdecode(source), kind

    def add_item(
        self, source: str, line: int | None, kind: str, digest: bytes | None, text: str | None = None
    ) -> None:
        """Append the item in `source`, or in its line; the content of `digest` is new or known already."""
        content = None
        if digest is not None:
            place = self.counts[kind]
            self.counts[kind] += self._database.execute(
                "INSERT OR IGNORE INTO contents (kind, place, digest, source, text) VALUES (?, ?, ?, ?, ?)",
                (kind, place, digest, os.fsencode(source), text),
            ).rowcount
            query = "SELECT id FROM contents WHERE kind = ? AND digest = ?"
            (content,) = self._database.execute(query, (kind, digest)).fetchone()
        self._add(source, line, kind, content, None)

    def add_fault(self, source: str, line: int | None, kind: str, fault: str) -> None:
        """Append an item that cannot be read, and say why."""
        self._add(source, line, kind, None, os.fsencode(fault))

    def _add(
        self, source: str, line: int | None, kind: str, content: int | None, fault: bytes | None
    ) -> None:
        query = "INSERT INTO items (source, line, kind, content, fault) VALUES (?, ?, ?, ?, ?)"
        self._database.execute(query, (os.fsencode(source), line, kind, content, fault))
        self.num_items += 1

    def contents(self, kind: str, places: range) -> list[Content]:
        """The contents at `places` of `kind`."""
        query = """SELECT place, digest, source, text FROM contents
                   WHERE kind = ? AND place >= ? AND place < ? ORDER BY place"""
        rows = self._database.execute(query, (kind, places.start, places.stop))
        return [Content(place, digest, os.fsdecode(source), text) for place, digest, source, text in rows]

    def set_fault(self, kind: str, place: int, fault: str | None) -> None:
        """Say why a content cannot be encoded, or that it can."""
        query = "UPDATE contents SET fault = ? WHERE kind = ? AND place = ?"
        self._database.execute(query, (None if fault is None else os.fsencode(fault), kind, place))

    def items(self) -> Iterator[dict[str, Any]]:
        """The rows of items.jsonl."""
        query = """SELECT items.source, line, items.kind, hex(digest), text
                   FROM items LEFT JOIN contents ON contents.id = content ORDER BY items.id"""
        for source, line, kind, digest, text in self._database.execute(query):
            sha256 = digest.lower() or None
            row = {"source": os.fsdecode(source), "line": line, "modality": kind, "sha256": sha256}
            yield row if text is None else {**row, "text": text}

    @property
    def num_failed(self) -> int:
        """The number of rows of `failed`."""
        query = """SELECT count(*) FROM items LEFT JOIN contents ON contents.id = content
                   WHERE coalesce(items.fault, contents.fault) IS NOT NULL"""
        return self._database.execute(query).fetchone()[0]

    def failed(self) -> Iterator[dict[str, Any]]:
        """The rows of failed.jsonl: the items that have no embedding."""
        query = """SELECT items.source, line, items.kind, coalesce(items.fault, contents.fault) AS reason
                   FROM items LEFT JOIN contents ON contents.id = content
                   WHERE reason IS NOT NULL ORDER BY items.id"""
        for source, line, kind, reason in self._database.execute(query):
            row = {"source": os.fsdecode(source), "line": line, "modality": kind}
            yield {**row, "reason": os.fsdecode(reason)}
