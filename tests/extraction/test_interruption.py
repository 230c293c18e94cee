"""However often and wherever an extraction is stopped, the finished store has the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLED_EVERYWHERE = Path(__file__).with_name("killed_everywhere.py")


def _wait_for_shards(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Return once `folder` holds `count` shards or the process has ended."""
    deadline = time.monotonic() + 200
    while len(list(folder.glob("*.pt"))) < count and process.poll() is None:
        assert time.monotonic() < deadline, "the extraction made no shard"
        time.sleep(0.002)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_kill_9_at_random_moments_then_the_same_command(world, finished, workers: str) -> None:
    rng = random.Random(int(workers))
    options = ["--options", "workers", workers]
    folder = world.store / "train"
    killed = []
    for shards in sorted(rng.sample(range(15), 3)):
        process = subprocess.Popen(
            world.command(*options), env=world.environment(), text=True, stderr=subprocess.DEVNULL
        )
        _wait_for_shards(process, folder, shards)
        time.sleep(rng.random() * 0.03)
        process.kill()
        killed.append(process.wait() == -signal.SIGKILL)
    assert any(killed)
    done = world.run(*options)
    assert done.returncode == 0, done.stderr
    assert world.contents() == finished.contents()


def test_kill_9_at_every_write_then_the_same_command(world, tmp_path: Path) -> None:
    config = world.write_config("few_shards.yaml", shard_size=16)
    assert world.call(config=config).exit_code == 0
    finished = world.contents()
    done = subprocess.run(
        [sys.executable, KILLED_EVERYWHERE, tmp_path / "stores", "visdial", "--config", config],
        env=world.environment(),
        text=True,
        capture_output=True,
        timeout=500,
    )
    shards = sum(name.endswith(".pt") for name in finished)
    writes = shards + 2  # the manifest is written at the beginning and at the end
    assert done.stdout.endswith(f"{2 * writes} runs were killed; the next ended with 0\n"), done.stdout
    for last in range(2 * writes):
        folder = tmp_path / "stores" / str(last)
        # Run `last` was killed after half as many names had been given.
        assert len(list(folder.rglob("*.pt"))) == min(max((last + 1) // 2 - 1, 0), shards)
        again = world.call("--out", folder, config=config)
        assert again.exit_code == 0, again.output
        assert world.contents(folder) == finished


def test_finished_shards_are_not_encoded_again(world) -> None:
    folder = world.store / "train"
    process = subprocess.Popen(world.command(), env=world.environment(), text=True, stderr=subprocess.DEVNULL)
    _wait_for_shards(process, folder, 5)
    process.kill()
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*-*.pt")}
    assert len(before) >= 5
    assert world.call().exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_ctrl_c_ends_with_one_line_and_130(world, finished) -> None:
    process = subprocess.Popen(
        world.command("--options", "workers", "2"),
        env=world.environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    _wait_for_shards(process, world.store / "train", 1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to the worker processes too
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    lines = [line for line in said.splitlines() if " of 30" not in line and " of 27" not in line]
    assert lines == ["interrupted: finished shards are kept, the same command goes on from there"]
    assert not list(world.store.rglob("*.tmp"))
    assert world.run().returncode == 0
    assert world.contents() == finished.contents()
