"""The interface of the long-term memory's stores: one SQLite file, or PostgreSQL with pgvector.

A method that changes something returns when the change is durable: what it acknowledged is there after a
crash. Several processes may use one store at once, and each sees what the others wrote.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from malmm.errors import InputError
from malmm.memory.record import Draft, Filters, Match, Media, Query, Record

ALL = Filters()  # no restriction


class MemoryStore(ABC):
    """Records of many users. A user is seen by name; nothing of one user reaches a call made for another.

    Methods that name ids ignore those that are not (or no longer) the user's.
    """

    width: int
    """C of every embedding in it."""

    @abstractmethod
    def add(self, drafts: Sequence[Draft]) -> list[int]:
        """Store the drafts in one transaction -> their ids, in order. Embeddings are brought to unit length.

        Where a draft's media is `copied`, its file is copied into the store, once for equal bytes.
        Raises InputError for an embedding of another width or without a direction (zero, NaN or infinite).
        """

    @abstractmethod
    def get(self, user: str, ids: Sequence[int]) -> list[Record]:
        """The records with these ids, in the order of `ids`."""

    @abstractmethod
    def records(
        self,
        user: str,
        filters: Filters = ALL,
        limit: int = 100,
        offset: int = 0,
        newest_first: bool = True,
    ) -> list[Record]:
        """A user's records by time of creation."""

    @abstractmethod
    def count(self, user: str | None = None) -> int:
        """How many records there are, of one user or in all."""

    @abstractmethod
    def users(self) -> Sequence[str]:
        """Names of the users that have records, in alphabetical order."""

    @abstractmethod
    def search(self, query: Query) -> Sequence[Match]:
        """The k records of the highest combined score, best first; equal scores by id."""

    @abstractmethod
    def search_text(
        self, user: str, text: str, k: int = 10, filters: Filters = ALL
    ) -> Sequence[tuple[int, float]]:
        """(id, score) of the k records that share words with `text`, by BM25 or the store's nearest to it.

        Higher is better. Words are matched without regard to case; a text without words finds nothing.
        """

    @abstractmethod
    def score(self, query: Query, ids: Sequence[int]) -> Sequence[Match]:
        """Combined score and terms of given records of `query.user`, in the order of `ids`.

        Of those that the query may see: what its filters or its `now` exclude is passed over.
        """

    @abstractmethod
    def touch(self, user: str, ids: Sequence[int], now: float | None = None) -> None:
        """Count one more access of each record, at `now`, in one transaction."""

    @abstractmethod
    def update(
        self,
        user: str,
        id: int,
        *,
        text: str | None = None,
        saliency: float | None = None,
        pinned: bool | None = None,
    ) -> bool:
        """Change what is given; False where there is no such record."""

    @abstractmethod
    def delete(self, user: str, ids: Sequence[int]) -> int:
        """Delete records, with those merged into them, and media copies that no record needs any more.

        -> how many there were. Nothing of their text or vectors remains in the store's files.
        """

    @abstractmethod
    def merge(self, user: str, budget: int) -> int:
        """Bring a user down to `budget` records -> how many were merged away.

        As the memory bank compresses: of neighbours in time (one modality, none pinned) the two most alike by
        cosine become one, their embeddings averaged by size. The older one's id stays; text, media and times
        are those of the larger, or where they are equal of the newer; counts are added, the higher saliency
        stays.
        """

    @abstractmethod
    def merged(self, user: str, id: int) -> Sequence[Record]:
        """The records as they were before they were merged into `id`, oldest first; empty where none were."""

    def media_file(self, media: Media) -> Path | None:
        """A file with a record's media: the store's copy, else where it lay; None where it is gone."""
        path = Path(media.path)
        return path if path.is_file() else None

    @abstractmethod
    def close(self) -> None:
        """Release files and connections; a closed store cannot be used."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(url: str, width: int, encoder: Mapping[str, Any]) -> MemoryStore:
    """Open a store, or make it: a path of a SQLite file, or postgresql://user@host/database.

    width: C; encoder: what identifies the embeddings (`Encoder.identity()`), kept in the store.
    Raises InputError where the store holds embeddings of another encoder, is no store, or cannot be reached.
    """
    if url.startswith(("postgresql://", "postgres://")):
        try:
            from malmm.memory.postgres import PostgresStore
        except ModuleNotFoundError as error:
            raise InputError(
                f"a memory in PostgreSQL needs {error.name}: pip install -e '.[postgres]', or name a file"
            ) from error
        return PostgresStore(url, width, encoder)
    from malmm.memory.sqlite import SQLiteStore

    return SQLiteStore(url, width, encoder)
