"""`python -m malmm results` in small, by the real command; and its tables by hand-made evaluations."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from malmm.errors import InputError
from malmm.evaluate.breakdown import DIRECT, REFERS_BACK
from malmm.evaluate.controls import CURRENT, SHUFFLED, all_controls
from malmm.evaluate.report import MODEL
from malmm.results.plan import NO_BANK, VARIATIONS
from malmm.results.tables import BEGIN, END, ablations, by_round, insert, targets


def evaluation(**rows: tuple[float, float, float]) -> dict[str, Any]:
    """results.json as far as the tables read it: all, no history, refers back of each row."""
    named = {"own": MODEL, "shuffled": SHUFFLED, "current": CURRENT}
    return {
        "metrics": {named[key]: {"exact_match": values[0]} for key, values in rows.items()},
        "accuracy": {
            named[key]: {
                "by_type": {DIRECT: values[1], REFERS_BACK: values[2]},
                "by_round": {"1": values[1], "2": values[2]},
            }
            for key, values in rows.items()
        },
    }


DEFAULT = evaluation(own=(80, 86, 70), shuffled=(33, 34, 32), current=(65, 80, 56))
RUNS = {
    "fc + turn_pe": [evaluation(own=(50, 60, 40)), evaluation(own=(54, 64, 44))],
    NO_BANK: [evaluation(own=(66, 80, 58))],
}


def test_targets_say_what_is_reached_and_what_is_missed() -> None:
    lines = targets(DEFAULT, RUNS).splitlines()[2:]
    assert [line.split("|")[3].strip() for line in lines] == ["86.0", "70.0", "47.0", "14.0", "12.0"]
    assert [line.split("|")[4].strip() for line in lines] == ["reached"] * 3 + ["**missed**", "reached"]
    worse = targets(DEFAULT, {NO_BANK: [evaluation(own=(66, 80, 71))]}).splitlines()[-1]
    assert worse.endswith("| above 0 | -1.0 | **missed** |")
    assert len(targets(DEFAULT, {}).splitlines()) == 2 + 4


def test_ablations_have_mean_and_spread_over_the_seeds() -> None:
    lines = ablations(DEFAULT, RUNS).splitlines()
    assert "| fresh layers: fc + turn_pe | 52.0 ± 2.8 | 62.0 ± 2.8 | 42.0 ± 2.8 |" in lines
    assert f"| {NO_BANK} | 66.0 | 80.0 | 58.0 |" in lines
    assert "| pictures shuffled | 33.0 | 34.0 | 32.0 |" in lines


def test_rounds_stand_in_order() -> None:
    assert by_round(DEFAULT).splitlines()[0] == "| round | 1 | 2 |"
    assert by_round(DEFAULT).splitlines()[2] == "| the embedded default | 86.0 | 70.0 |"


def test_only_what_is_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    insert(page, "new \\1\n")
    assert page.read_text() == f"before\n{BEGIN}\nnew \\1\n{END}\nafter\n"
    page.write_text("no markers")
    with pytest.raises(InputError, match="add them where the tables belong"):
        insert(page, "new")


def test_the_page_of_this_project_has_the_markers(project: Path) -> None:
    text = (project / "docs/results.md").read_text()
    assert text.count(BEGIN) == text.count(END) == 1


@pytest.mark.slow
def test_the_command_in_small_makes_everything_and_nothing_twice(tmp_path: Path, project: Path) -> None:
    command = [sys.executable, "-m", "malmm", "results", "--quick", "--out", "out"]
    environment = {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    docs = (project / "docs/results.md").read_bytes()

    def run() -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = run()
    facts = json.loads((tmp_path / "out/results.json").read_text())
    assert set(facts["default"]["accuracy"]) >= {MODEL, SHUFFLED, *(c.name for c in all_controls())}
    assert set(facts["variations"]) == {variation.name for variation in VARIATIONS}
    for runs in facts["variations"].values():
        assert [run["seed"]["run.seed"] for run in runs] == [42, 43]
        assert all(run["command"].startswith("python evaluate.py") and run["signature"] for run in runs)
    page = (tmp_path / "out/results.md").read_text()
    for name in ("memory_bank", "learning_curves"):
        assert f"(images/{name}.png)" in page
        with Image.open(tmp_path / f"out/images/{name}.png") as image:
            assert image.width > 500 and len(set(image.convert("L").resize((64, 64)).tobytes())) > 10
    checkpoints = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("checkpoint_latest.pth")}
    assert len(checkpoints) == 6 and first.count("done before") == 0
    again = run()
    assert again.count("done before") == 9
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("checkpoint_latest.pth")} == checkpoints
    assert (project / "docs/results.md").read_bytes() == docs
