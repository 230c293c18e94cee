"""Where a run begins, and what its logs keep."""

import json
from pathlib import Path

import pytest

from malmm.config import RunConfig, TaskConfig
from malmm.errors import InputError
from malmm.models.checkpoint import save_checkpoint
from malmm.train.folder import RunFolder, find_evaluated, find_start, first_difference


def task(tmp_path: Path, **run: object) -> TaskConfig:
    return TaskConfig({"arch": "dialogue"}, {}, RunConfig(**{"output_dir": str(tmp_path), "job": "j", **run}))  # type: ignore[arg-type]


def leave_checkpoint(config: TaskConfig, name: str = "latest", step: int = 5) -> Path:
    folder = RunFolder(config)
    folder.path.mkdir(parents=True, exist_ok=True)
    path = folder.path / f"checkpoint_{name}.pth"
    content = {"model": {}, "config": config.to_dict(), "frozen_fingerprint": "", "epoch": 1, "step": step}
    save_checkpoint(path, content)
    return path


def test_an_empty_folder_starts_at_the_beginning(tmp_path: Path) -> None:
    config = task(tmp_path)
    assert find_start(config, RunFolder(config)) is None
    assert find_evaluated(config, RunFolder(config)) is None


def test_the_same_command_goes_on_from_its_latest_checkpoint(tmp_path: Path) -> None:
    config = task(tmp_path)
    path = leave_checkpoint(config)
    again = task(tmp_path, log_freq=7, num_workers=1, save_every_steps=9, tensorboard=False)
    found = find_start(again, RunFolder(again))
    assert found is not None
    assert found.path == path


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 7), ("init_lr", 0.5), ("max_epoch", 9), ("valid_dialogues", 1)]
)
def test_a_material_difference_is_named(tmp_path: Path, key: str, value: float) -> None:
    leave_checkpoint(task(tmp_path))
    other = task(tmp_path, **{key: value})
    with pytest.raises(InputError, match=rf"another configuration \(run.{key} is {value} here, .* there\)"):
        find_start(other, RunFolder(other))


def test_a_named_checkpoint_starts_a_run_and_then_its_own_latest_goes_on(tmp_path: Path) -> None:
    elsewhere = leave_checkpoint(task(tmp_path / "elsewhere"), step=3)
    config = task(tmp_path, resume_ckpt_path=str(elsewhere))
    found = find_start(config, RunFolder(config))
    assert found is not None
    assert found.path == elsewhere
    own = leave_checkpoint(config, step=8)
    found = find_start(config, RunFolder(config))
    assert found is not None
    assert (found.path, found.checkpoint["step"]) == (own, 8)


def test_a_named_checkpoint_of_the_folder_itself_goes_on_with_another_configuration(tmp_path: Path) -> None:
    path = leave_checkpoint(task(tmp_path))
    config = task(tmp_path, max_epoch=9, resume_ckpt_path=str(path))
    assert find_start(config, RunFolder(config)) is not None


def test_a_named_checkpoint_does_not_overwrite_another_run(tmp_path: Path) -> None:
    leave_checkpoint(task(tmp_path))
    elsewhere = leave_checkpoint(task(tmp_path / "elsewhere"))
    config = task(tmp_path, seed=1, resume_ckpt_path=str(elsewhere))
    with pytest.raises(InputError, match="holds a run of another configuration"):
        find_start(config, RunFolder(config))
    overwriting = task(tmp_path, seed=1, resume=False)
    assert find_start(overwriting, RunFolder(overwriting)) is None


def test_evaluation_prefers_the_best_checkpoint(tmp_path: Path) -> None:
    config = task(tmp_path)
    latest = leave_checkpoint(config)
    found = find_evaluated(config, RunFolder(config))
    assert found is not None
    assert found.path == latest
    best = leave_checkpoint(config, "best")
    found = find_evaluated(config, RunFolder(config))
    assert found is not None
    assert found.path == best
    named = task(tmp_path, resume_ckpt_path=str(latest))
    found = find_evaluated(named, RunFolder(named))
    assert found is not None
    assert found.path == latest


def test_logs_lose_what_lies_beyond_the_start_and_lines_cut_short(tmp_path: Path) -> None:
    config = task(tmp_path)
    folder = RunFolder(config)
    folder.begin(config, 0, 0)
    for step in range(6):
        folder.write(folder.steps, {"epoch": step // 2, "step": step})
    folder.write(folder.log, {"model": {}})
    for epoch in range(3):
        folder.write(folder.log, {"epoch": epoch, "train_loss": 1.0})
    with folder.steps.open("a") as file:
        file.write('{"epoch": 3, "st')
    folder.begin(config, 1, 3)
    assert [json.loads(line)["step"] for line in folder.steps.read_text().splitlines()] == [0, 1, 2]
    kept = [json.loads(line) for line in folder.log.read_text().splitlines()]
    assert kept == [{"model": {}}, {"epoch": 0, "train_loss": 1.0}]
    folder.begin(config, 0, 0)
    assert (folder.steps.read_text(), folder.log.read_text()) == ("", "")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = task(tmp_path / "file")
    with pytest.raises(InputError, match=r"run.output_dir: .*file/j cannot be written"):
        RunFolder(config).begin(config, 0, 0)


def test_first_difference_looks_into_sections() -> None:
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 1}}) is None
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b is 2 here, 1 there"
    assert first_difference({}, {"a": 3}) == "a is 3 here, None there"
    assert first_difference({"run": {"job": "x"}}, {"run": {"job": "y"}}) is None
    assert first_difference({"model": {"job": "x"}}, {"model": {"job": "y"}}) is not None
