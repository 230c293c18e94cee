"""The command line `python -m malmm`."""

import subprocess
import sys
from pathlib import Path

import pytest

from malmm.__main__ import main


def test_help_names_the_commands_without_loading_torch(project: Path) -> None:
    code = (
        "import sys, malmm.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit as end: print('status', end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=project)
    assert done.stdout.strip().endswith("status 0 False"), done.stderr
    assert all(name in done.stdout for name in ("chat", "data", "train-tiny", "quickstart"))


def test_data_mini_writes_the_world(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        main(["data", "mini", "--out", str(tmp_path / "w"), "--train", "3", "--val", "2", "--test", "1"])
    assert end.value.code == 0
    assert len(list((tmp_path / "w").glob("*2014/*.jpg"))) == 3
    assert len(list((tmp_path / "w/VisualDialog_val2018").iterdir())) == 2


def test_an_input_error_is_one_sentence_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("not a world")
    with pytest.raises(SystemExit) as end:
        main(["data", "mini", "--out", str(tmp_path)])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path} holds something else") and error.count("\n") == 1


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["chat", "--imgae", "a.png"])
    assert end.value.code == 2
    assert "--imgae" in capsys.readouterr().err
