"""The long-term memory in one SQLite file: the embedded default.

The file is the only truth. Searches go through an index in this process that follows it.
"""
# ruff: noqa: D102 (MemoryStore says what the methods do)

import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from malmm.memory.checks import check_draft, check_saliency, unit_vector
from malmm.memory.index import USER_BITS, VectorIndex
from malmm.memory.media import MediaFolder, copy_name
from malmm.memory.record import Draft, Filters, Match, Media, Query, Record, Vector
from malmm.memory.scoring import cosines, score_terms
from malmm.memory.sqlite_content import search_words
from malmm.memory.sqlite_fetch import (
    fetch_index_rows,
    fetch_matches,
    fetch_merged,
    fetch_records,
    fetch_vectors,
)
from malmm.memory.sqlite_file import SQLiteFile
from malmm.memory.sqlite_index import IndexFeed, log_changes
from malmm.memory.sqlite_merge import merge_records
from malmm.memory.sqlite_rows import (
    Condition,
    both,
    by_user,
    number_of_user,
    of_ids,
    of_named,
    of_user,
    own_ids,
    passing,
    restriction,
)
from malmm.memory.sqlite_schema import check_kind, prepare
from malmm.memory.sqlite_write import delete_records, insert_drafts, take_leftovers, update_record
from malmm.memory.store import ALL, MemoryStore


class SQLiteStore(MemoryStore):
    """Records in `path`, copies of media in `<path>.media/`. Safe to call from several threads."""

    def __init__(self, path: str | Path, width: int, encoder: Mapping[str, Any]) -> None:
        """Open the file or make it, with the folders above it; see `open_store`."""
        self.path = Path(path).expanduser().absolute()
        self.width = width
        self._media = MediaFolder(self.path.with_name(self.path.name + ".media"))
        self._file = SQLiteFile(self.path)
        self._feed = IndexFeed(VectorIndex(width))
        try:
            with self._file.reading() as db:
                check_kind(db, self.path)  # before anything is written into another program's file
            self._file.configure()
            with self._file.writing() as db:
                prepare(db, self.path, width, encoder)
            self._sweep()
        except BaseException:
            self._file.close()
            raise

    def add(self, drafts: Sequence[Draft]) -> list[int]:
        vectors = [unit_vector(draft.embedding, self.width) for draft in drafts]
        for draft in drafts:
            check_draft(draft)
        if not drafts:
            return []
        media = {
            copy_name(draft.media): draft.media for draft in drafts if draft.media and draft.media.copied
        }
        new = [(name,) for name in media if not self._media.file(name).exists()]
        if new:  # noted first, so that a copy is known of even if no record comes to need it
            with self._file.writing() as db:
                db.executemany("INSERT OR IGNORE INTO leftovers VALUES (?)", new)
        with self._file.writing() as db:
            for one in media.values():
                self._media.keep(one)
            ids = insert_drafts(db, drafts, vectors, time.time())
            db.executemany("DELETE FROM leftovers WHERE media_copy = ?", [(name,) for name in media])
        return ids

    def get(self, user: str, ids: Sequence[int]) -> list[Record]:
        with self._file.reading() as db:
            number = number_of_user(db, user)
            if number is None:
                return []
            return fetch_records(db, number, ids)

    def records(
        self,
        user: str,
        filters: Filters = ALL,
        limit: int = 100,
        offset: int = 0,
        newest_first: bool = True,
    ) -> list[Record]:
        order = "DESC" if newest_first else "ASC"
        with self._file.reading() as db:
            number = number_of_user(db, user)
            if number is None:
                return []
            condition = both(of_user(number), passing(filters))
            rows = db.execute(
                f"SELECT id FROM records WHERE {condition.sql} "
                f"ORDER BY created {order}, id {order} LIMIT ? OFFSET ?",
                (*condition.parameters, limit, offset),
            )
            return fetch_records(db, number, [id for (id,) in rows])

    def count(self, user: str | None = None) -> int:
        with self._file.reading() as db:
            return _count(db, of_named(db, user))

    def users(self) -> Sequence[str]:
        with self._file.reading() as db:  # a user without records is not kept
            return [name for (name,) in db.execute("SELECT name FROM users ORDER BY name")]

    def search(self, query: Query) -> Sequence[Match]:
        vector = unit_vector(query.embedding, self.width)
        with self._file.reading() as db:
            number = None if query.user is None else number_of_user(db, query.user)
            if query.k < 1 or (number is None and query.user is not None):
                return []
            self._feed.catch_up(db, number)
            found = self._feed.index.search(
                vector, number, query.k, query.weights, query.now,
                lambda ids: fetch_vectors(db, ids), restriction(db, query.filters),
            )  # fmt: skip
            return fetch_matches(db, found.ids, found.scores, found.terms)

    def search_text(
        self, user: str, text: str, k: int = 10, filters: Filters = ALL
    ) -> Sequence[tuple[int, float]]:
        with self._file.reading() as db:
            number = number_of_user(db, user)
            return [] if number is None else search_words(db, number, text, k, filters)

    def score(self, query: Query, ids: Sequence[int]) -> Sequence[Match]:
        vector = unit_vector(query.embedding, self.width)
        with self._file.reading() as db:
            own = by_user(ids if query.user is None else own_ids(db, query.user, ids))
            matches = [match for user in own for match in self._score(db, vector, query, user, own[user])]
        by_id = {match.record.id: match for match in matches}
        return [by_id[id] for id in ids if id in by_id]

    def _score(
        self, db: sqlite3.Connection, vector: Vector, query: Query, user: int, ids: Sequence[int]
    ) -> list[Match]:
        """Matches of those of a user's records that the query may see. user: his number."""
        seen = both(passing(query.filters), Condition("created <= ?", (query.now,)))
        rows = fetch_index_rows(db, self.width, user, both(of_ids(ids), seen))
        own = both(of_user(user), seen)
        (most,) = db.execute(
            f"SELECT max(access_count) FROM records JOIN counters USING (id) WHERE {own.sql}", own.parameters
        ).fetchone()
        scores, terms = score_terms(
            cosines(rows.vectors, vector), rows.created, rows.accessed, rows.counts, rows.saliency,
            query.now, query.weights, most or 0,
        )  # fmt: skip
        return fetch_matches(db, rows.ids, scores, terms)

    def touch(self, user: str, ids: Sequence[int], now: float | None = None) -> None:
        now = time.time() if now is None else now
        with self._file.writing() as db:
            own = own_ids(db, user, ids)
            db.executemany(
                "UPDATE counters SET access_count = access_count + 1, accessed = ? WHERE id = ?",
                [(now, id) for id in own],
            )
            log_changes(db, own, only_counters=True)

    def update(
        self,
        user: str,
        id: int,
        *,
        text: str | None = None,
        saliency: float | None = None,
        pinned: bool | None = None,
    ) -> bool:
        if saliency is not None:
            check_saliency(saliency)
        with self._file.writing() as db:
            if not own_ids(db, user, [id]):
                return False
            update_record(db, id, text, saliency, pinned)
        if text is not None:
            self._file.erase()
        return True

    def delete(self, user: str, ids: Sequence[int]) -> int:
        with self._file.writing() as db:
            own = own_ids(db, user, ids)
            if own:
                delete_records(db, own)
        if own:
            self._sweep()
            self._file.erase()
        return len(own)

    def merge(self, user: str, budget: int) -> int:
        with self._file.writing() as db:
            number = number_of_user(db, user)
            if number is None:
                return 0
            excess = _count(db, of_user(number)) - budget
            return merge_records(db, number, excess) if excess > 0 else 0

    def merged(self, user: str, id: int) -> Sequence[Record]:
        with self._file.reading() as db:
            return fetch_merged(db, id >> USER_BITS, id) if own_ids(db, user, [id]) else []

    def media_file(self, media: Media) -> Path | None:
        if media.copied and (copy := self._media.file(copy_name(media))).is_file():
            return copy
        return super().media_file(media)

    def close(self) -> None:
        self._file.close()

    def _sweep(self) -> None:
        """Delete copies of media that no record needs; those that a kill left behind too."""
        with self._file.reading() as db:
            if db.execute("SELECT 1 FROM leftovers").fetchone() is None:
                return
        with self._file.writing() as db:
            for name in take_leftovers(db):
                self._media.discard(name)


def _count(db: sqlite3.Connection, condition: Condition) -> int:
    """How many records meet a condition on their ids."""
    return db.execute(
        f"SELECT count(*) FROM counters WHERE {condition.sql}", condition.parameters
    ).fetchone()[0]
