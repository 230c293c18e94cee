"""The command under the name that MA-LMM's users know; tests/malmm/train/test_run.py tests what it does."""

import os
import subprocess
import sys
from pathlib import Path


def run(project: Path, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lavis.tasks.run", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_lavis_path_and_a_mistyped_key_end_with_one_sentence(project: Path, tmp_path: Path) -> None:
    path = "lavis/configs/tasks/finetune_visdial.yaml"
    done = run(
        project, tmp_path, "--cfg-path", path, "--options", "run.max_epoch", "5", "run.batch_size_trian", "4"
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: --options: unknown key run.batch_size_trian; the nearest known one is run.batch_size_train\n"
    )
    assert not any(tmp_path.iterdir())
