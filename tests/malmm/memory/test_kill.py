"""A writer is killed at random moments, and nothing that it had confirmed is lost or half done."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from malmm.memory.checks import unit_vector
from malmm.memory.record import Query
from malmm.memory.sqlite import SQLiteStore
from tests.malmm.memory.killed_writer import ENCODER, WIDTH, vector_of
from tests.malmm.memory.sqlite_consistency import check_consistency

KILLS = 50


class State(NamedTuple):
    """What is known of a record: the text whose embedding it has, its text now, how often it was recalled."""

    first_text: str
    text: str
    count: int


@pytest.fixture
def writers(tmp_path: Path, project: Path) -> Iterator[subprocess.Popen[str]]:
    """The process that forks writers."""
    (tmp_path / "pictures").mkdir()
    command = [sys.executable, project / "tests/malmm/memory/killed_writer.py"]
    with subprocess.Popen(
        [*command, tmp_path / "m.db", tmp_path / "pictures"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(project)},
    ) as process:
        yield process
        process.stdin.close()


def run_and_kill(writers: subprocess.Popen[str], seed: int) -> list[dict[str, Any]]:
    """Start a writer, kill it at a random moment -> what it said."""
    writers.stdin.write(f"{seed}\n")
    writers.stdin.flush()
    lines: list[dict[str, Any]] = []
    chance = random.Random(seed)
    changes, child = chance.randint(1, 8), 0
    for line in writers.stdout:
        lines.append(json.loads(line))
        child = lines[-1].get("child", child)
        changes -= "doing" in lines[-1]
        if changes == 0 and child:
            changes = -1
            threading.Timer(chance.uniform(0, 0.02), os.kill, (child, signal.SIGKILL)).start()
        if "ended" in lines[-1]:
            break
    return [line for line in lines if "doing" in line or "done" in line]


def after(state: dict[int, State], change: dict[str, Any], ids: list[int]) -> dict[int, State]:
    """What a change that was made leads to."""
    if change["doing"] == "add":
        return state | {id: State(text, text, 0) for id, text in zip(ids, change["texts"], strict=True)}
    own = {id: state[id] for id in change["ids"]}
    if change["doing"] == "touch":
        return state | {id: one._replace(count=one.count + 1) for id, one in own.items()}
    if change["doing"] == "update":
        return state | {id: one._replace(text=change["text"]) for id, one in own.items()}
    return {id: one for id, one in state.items() if id not in own}


def observed(memory: SQLiteStore, known: dict[int, State]) -> dict[int, State]:
    """The store's records, checked against the embeddings that their first texts have."""
    state = {}
    for record in memory.records("ann", limit=10_000):
        first_text = known[record.id].first_text if record.id in known else record.text
        exact = unit_vector(vector_of(first_text), WIDTH).astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(record.embedding, exact)
        if record.media:
            assert (
                memory.media_file(record.media).read_bytes() == Path(record.media.path).stem.encode() * 1000
            )
        state[record.id] = State(first_text, record.text, record.access_count)
    return state


def test_fifty_kills_lose_nothing_that_was_confirmed(tmp_path: Path, writers: subprocess.Popen[str]):
    state: dict[int, State] = {}
    confirmed = unfinished = 0
    for seed in range(KILLS):
        said = run_and_kill(writers, seed)
        for change, answer in zip(said[::2], said[1::2], strict=False):
            state = after(state, change, answer["done"])
            confirmed += 1
        with SQLiteStore(tmp_path / "m.db", WIDTH, ENCODER) as memory:
            found = observed(memory, state)
            possible = [state]
            if len(said) % 2:  # the last change was not confirmed: it is there as a whole, or not at all
                unfinished += 1
                new = sorted(found.keys() - state.keys())
                if said[-1]["doing"] != "add" or len(new) == len(said[-1]["texts"]):
                    possible.append(after(state, said[-1], new))
            assert found in possible
            state = found
            matches = memory.search(Query(np.ones(WIDTH), "ann", 1e12, k=len(state) + 1))
            assert {match.record.id for match in matches} == state.keys()
        check_consistency(tmp_path / "m.db")
    assert confirmed > KILLS and unfinished > 5  # or nothing was shown
