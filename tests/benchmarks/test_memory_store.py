"""The benchmark of the long-term memory at toy sizes: what it counts, not how fast it is."""

import os
import subprocess
import sys

import pytest

from malmm.config import PROJECT

WAYS = ("store", "plain", "qdrant-edge, 50")


def test_each_way_finds_the_ten_best_of_few_records() -> None:
    pytest.importorskip("qdrant_edge")
    command = [sys.executable, "benchmarks/memory_store.py", "--sizes", "150,90", "--users", "3"]
    command += ["--searches", "4", "--searches-all", "3", "--changes", "5", "--candidates", "50"]
    run = subprocess.run(
        [*command, "--catch-ups", "2"],
        cwd=PROJECT, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "160"},
    )  # fmt: skip
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in run.stdout.splitlines() if "│" in line
    ]
    searched, changed = rows[:6], rows[6:]
    assert [row[0] for row in searched] == [f"{size}, {way}" for size in (150, 90) for way in WAYS]
    for name, *cells in searched:
        assert cells[3] == "1.0000", name  # of 50 or 30 records all are candidates
        assert name.startswith(("150, qdrant", "90, qdrant")) or cells[7] == "1.0000", name
    assert [row[0] for row in changed] == ["150", "90"]
    assert all(float(cell) >= 0 for row in changed for cell in row[1:])
