"""The long-term memory in PostgreSQL with pgvector, for many users and several machines.

Vectors are kept in half precision (`halfvec`). A search scores all that the user may see, exactly: his
records are one range of the primary key. Words are ranked by BM25 over the same range, from a `tsvector` of
the configuration `simple` (no stemming, no stop words): `ts_rank_cd` counts a common word like a rare one.
"""
# ruff: noqa: D102 (MemoryStore says what the methods do)

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

from malmm.memory.checks import check_draft, check_saliency, unit_vector
from malmm.memory.media import copy_name
from malmm.memory.postgres_connection import Connections
from malmm.memory.postgres_media import fetch_media
from malmm.memory.postgres_merging import merge_records
from malmm.memory.postgres_queries import (
    BOTH,
    LISTED,
    MERGED,
    RECORDS,
    find_matches,
    find_words,
    to_record,
    visible,
)
from malmm.memory.postgres_schema import prepare
from malmm.memory.postgres_write import delete_records, insert_drafts, touch_records, update_record
from malmm.memory.record import Draft, Filters, Match, Media, Query, Record
from malmm.memory.store import ALL, MemoryStore


class PostgresStore(MemoryStore):
    """Records in one PostgreSQL database; copies of media lie there too. Safe to call from several threads.

    After a restart of the server the next call connects again. What `delete` removed is gone from all
    tables; when its bytes are overwritten on the disk is a matter of the server's VACUUM, write-ahead log and
    backups.
    """

    def __init__(self, url: str, width: int, encoder: Mapping[str, Any]) -> None:
        """Open the store, or make its tables. url: postgresql://user:password@host:port/database.

        Raises InputError where the server is out of reach, has no such database or no pgvector, or where
        the store has another schema version, width or encoder.
        """
        prepare(url, width, encoder)
        self.width = width
        self._connections = Connections(url)
        self._fetched = TemporaryDirectory(prefix="malmm-media-")

    def add(self, drafts: Sequence[Draft]) -> list[int]:
        vectors = [unit_vector(draft.embedding, self.width) for draft in drafts]
        for draft in drafts:
            check_draft(draft)
        with self._connections.transaction() as cursor:
            return insert_drafts(cursor, drafts, vectors, time.time())

    def get(self, user: str, ids: Sequence[int]) -> list[Record]:
        with self._connections.transaction() as cursor:
            where, values = visible(cursor, user, tables=BOTH)
            statement = RECORDS.format(where=f"{where} AND r.id = ANY(%(ids)s)")
            found = {
                row[0]: to_record(row) for row in cursor.execute(statement, {**values, "ids": list(ids)})
            }
        return [found[id] for id in ids if id in found]

    def records(
        self,
        user: str,
        filters: Filters = ALL,
        limit: int = 100,
        offset: int = 0,
        newest_first: bool = True,
    ) -> list[Record]:
        order = "DESC" if newest_first else "ASC"
        with self._connections.transaction() as cursor:
            where, values = visible(cursor, user, filters)
            statement = LISTED.format(where=where, order=order)
            cursor.execute(statement, {**values, "limit": limit, "offset": offset})
            return [to_record(row) for row in cursor]

    def count(self, user: str | None = None) -> int:
        with self._connections.transaction() as cursor:
            where, values = visible(cursor, user)
            ((count,),) = cursor.execute(f"SELECT count(*) FROM memory_counters r WHERE {where}", values)
        return count

    def users(self) -> list[str]:
        with self._connections.transaction() as cursor:  # a user without records is not kept
            return [
                name for (name,) in cursor.execute('SELECT name FROM memory_users ORDER BY name COLLATE "C"')
            ]

    def search(self, query: Query) -> list[Match]:
        embedding = unit_vector(query.embedding, self.width)
        with self._connections.transaction() as cursor:
            return find_matches(cursor, query, embedding)

    def search_text(
        self, user: str, text: str, k: int = 10, filters: Filters = ALL
    ) -> list[tuple[int, float]]:
        with self._connections.transaction() as cursor:
            return find_words(cursor, user, text, k, filters)

    def score(self, query: Query, ids: Sequence[int]) -> list[Match]:
        embedding = unit_vector(query.embedding, self.width)
        with self._connections.transaction() as cursor:
            found = {match.record.id: match for match in find_matches(cursor, query, embedding, ids)}
        return [found[id] for id in ids if id in found]

    def touch(self, user: str, ids: Sequence[int], now: float | None = None) -> None:
        with self._connections.transaction() as cursor:
            touch_records(cursor, user, ids, time.time() if now is None else now)

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
        with self._connections.transaction() as cursor:
            return update_record(cursor, user, id, text, saliency, pinned)

    def delete(self, user: str, ids: Sequence[int]) -> int:
        with self._connections.transaction() as cursor:
            count, gone = delete_records(cursor, user, ids)
        for sha256 in gone:
            for file in Path(self._fetched.name).glob(f"{sha256}*"):
                file.unlink()
        return count

    def merge(self, user: str, budget: int) -> int:
        with self._connections.transaction() as cursor:
            return merge_records(cursor, user, budget)

    def merged(self, user: str, id: int) -> list[Record]:
        with self._connections.transaction() as cursor:
            where, values = visible(cursor, user)
            statement = MERGED.format(where=f"{where} AND r.into_id = %(id)s") + "ORDER BY r.created, r.id"
            return [to_record(row) for row in cursor.execute(statement, {**values, "id": id})]

    def media_file(self, media: Media) -> Path | None:
        """See `MemoryStore.media_file`; a copy is fetched into a temporary folder, which `close` removes."""
        if not media.copied:
            return super().media_file(media)
        file = Path(self._fetched.name) / copy_name(media)
        if not file.exists():
            with self._connections.transaction() as cursor:
                data = fetch_media(cursor, media.sha256)
            if data is None:
                return super().media_file(media)
            with NamedTemporaryFile(dir=self._fetched.name, delete=False) as written:
                written.write(data)
            Path(written.name).replace(file)  # other threads find it whole
        return file

    def close(self) -> None:
        self._connections.close()
        self._fetched.cleanup()
