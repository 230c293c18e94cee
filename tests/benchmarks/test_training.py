"""benchmarks/training.py as it is typed: it runs, and its forms come to the same gradients."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_all_forms_are_measured_and_agree(project: Path) -> None:
    command = [sys.executable, "benchmarks/training.py", "--dialogues", "1", "--steps", "1", "--repeats", "1"]
    ran = subprocess.run(
        command, cwd=project, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"}
    )
    assert ran.returncode == 0, ran.stderr
    for form in ("plain", "plain, backward each round", "training step"):
        (row,) = [line for line in ran.stdout.splitlines() if re.match(rf"│ {form} +│", line)]
        cells = [cell.strip() for cell in row.strip("│").split("│")]
        assert float(cells[-1]) < 1e-4
        assert all(float(cell.split()[0]) > 0 for cell in cells[1:-1])
