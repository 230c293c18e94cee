"""The benchmark of a growing conversation in small: what it looks at, and what was encoded for it."""

import subprocess
import sys

from malmm.config import PROJECT


def test_no_question_has_earlier_ones_encoded_again() -> None:
    command = [sys.executable, "benchmarks/chat_turns.py", "--questions", "1", "3", "--conversations", "1"]
    run = subprocess.run(
        [*command, "--records", "20"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in run.stdout.splitlines() if "│" in line
    ]
    assert [row[:2] for row in rows] == [
        ["none", "1"], ["none", "3"], ["memory, 20 records", "1"], ["memory, 20 records", "3"],
    ]  # fmt: skip
    assert [row[-1] for row in rows[:2]] == ["1", "1"]  # the question
    assert all(row[-1] in ("1", "2") for row in rows[2:])  # the question and, where there is one, the answer
