"""Empty memories for tests: the same test runs over every kind of store."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from malmm.memory.sqlite import SQLiteStore
from malmm.memory.store import MemoryStore
from tests.malmm.memory.postgres_server import postgres, postgres_opener  # noqa: F401 (a fixture)

OpenMemory = Callable[..., MemoryStore]
"""open_memory(width=8, encoder={"name": "test"}, name="a"): the same name is the same store, opened anew."""

ENCODER = {"name": "test"}


def open_sqlite(folder: Path) -> OpenMemory:
    def open_memory(width: int, encoder: Mapping[str, Any], name: str) -> MemoryStore:
        return SQLiteStore(folder / f"{name}.db", width, encoder)

    return open_memory


@pytest.fixture(params=["sqlite", "postgres"])
def open_memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenMemory]:
    """A function that opens stores of one kind; they are closed when the test ends."""
    with ExitStack() as opened:
        if request.param == "sqlite":
            opener = open_sqlite(tmp_path)
        else:
            opener = opened.enter_context(postgres_opener(request.getfixturevalue("postgres")))

        def open_and_close(
            width: int = 8, encoder: Mapping[str, Any] = ENCODER, name: str = "a"
        ) -> MemoryStore:
            return opened.enter_context(opener(width, encoder, name))

        yield open_and_close


@pytest.fixture
def memory(open_memory: OpenMemory) -> MemoryStore:
    """One empty store, 8 wide."""
    return open_memory()
