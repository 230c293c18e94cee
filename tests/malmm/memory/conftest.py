"""Empty memories for tests: the same test runs over every kind of store."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from malmm.memory.sqlite import SQLiteStore
from malmm.memory.store import MemoryStore

OpenMemory = Callable[..., MemoryStore]
"""open_memory(width=8, encoder={"name": "test"}, name="a"): the same name is the same store, opened anew."""

ENCODER = {"name": "test"}


def open_sqlite(folder: Path) -> OpenMemory:
    def open_memory(width: int = 8, encoder: Mapping[str, Any] = ENCODER, name: str = "a") -> MemoryStore:
        return SQLiteStore(folder / f"{name}.db", width, encoder)

    return open_memory


@pytest.fixture(params=["sqlite"])
def open_memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenMemory]:
    """A function that opens stores of one kind; they are closed when the test ends."""
    openers = {"sqlite": lambda: open_sqlite(tmp_path)}
    opener = openers[request.param]()
    with ExitStack() as opened:

        def open_and_close(**arguments: Any) -> MemoryStore:
            return opened.enter_context(opener(**arguments))

        yield open_and_close


@pytest.fixture
def memory(open_memory: OpenMemory) -> MemoryStore:
    """One empty store, 8 wide."""
    return open_memory()
