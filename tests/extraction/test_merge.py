"""Slices of VisDial's store, and the whole that they are joined to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from extraction.__main__ import app
from extraction.errors import InputError
from extraction.store import EmbeddingStore


def merge(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["merge", *map(str, words)])


def make_slices(world, of: int, folder: Path) -> list[Path]:
    """Extract every slice into a folder of its own, the last one first."""
    parts = [folder / f"part{i}" for i in range(of)]
    for i in reversed(range(of)):
        done = world.call("--shard", f"{i}/{of}", "--out", parts[i])
        assert done.exit_code in (0, 1), done.output
    return parts


@pytest.mark.parametrize("of", [2, 3, 11])  # there are 8 shards of pictures, 9 of texts at most
def test_the_merged_store_is_the_one_made_in_one_piece(world, finished, tmp_path: Path, of: int) -> None:
    parts = make_slices(world, of, tmp_path)
    shards = [sorted(path.name for path in part.rglob("vision-*.pt")) for part in parts]
    assert sum(map(len, shards)) == 8 and max(map(len, shards)) == -(-8 // of)
    done = merge(*reversed(parts), "--out", tmp_path / "whole")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{tmp_path}/whole/train: 30 vision, ")
    assert world.contents(tmp_path / "whole") == finished.contents()
    before = [world.contents(part) for part in parts]
    assert merge(*parts, "--out", tmp_path / "whole").exit_code == 0
    assert world.contents(tmp_path / "whole") == finished.contents()
    assert [world.contents(part) for part in parts] == before


def test_failed_pictures_of_all_slices_are_in_the_merged_store(world, tmp_path: Path) -> None:
    ids = sorted(world.image_ids)
    bad = [ids[1], ids[6], ids[29]]  # of shards 0, 1 and 7
    for image_id in bad:
        world.picture(image_id).write_text("no picture")
    parts = make_slices(world, 2, tmp_path)
    done = merge(*parts, "--out", tmp_path / "whole")
    assert done.exit_code == 1
    assert (
        f"error: 3 items could not be read and are listed in {tmp_path}/whole/train/failed.jsonl"
        in done.stderr
    )
    assert world.call().exit_code == 1
    assert world.contents(tmp_path / "whole") == world.contents()
    assert sorted(EmbeddingStore.open(tmp_path / "whole/train", verify=True).failed_ids) == bad

    for image_id in bad:
        world.write_picture(image_id)
    make_slices(world, 2, tmp_path)
    assert merge(*parts, "--out", tmp_path / "whole").exit_code == 0
    assert world.call().exit_code == 0
    assert world.contents(tmp_path / "whole") == world.contents()


def test_a_killed_merge_is_done_again(world, finished, tmp_path: Path) -> None:
    parts = make_slices(world, 2, tmp_path)
    script = """
import os, signal, sys
from pathlib import Path
from extraction.__main__ import app
replace, count = Path.replace, 0
def killing(*arguments):
    global count
    count += 1
    if count == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(*arguments)
Path.replace = killing
app(sys.argv[1:])
"""
    words = ["merge", *map(str, parts), "--out", str(tmp_path / "whole")]
    killed = subprocess.run([sys.executable, "-c", script, *words], env=world.environment(), timeout=200)
    assert killed.returncode == -9
    with pytest.raises(InputError, match="is unfinished"):
        EmbeddingStore.open(tmp_path / "whole/train")
    assert merge(*words[1:]).exit_code == 0
    assert world.contents(tmp_path / "whole") == finished.contents()


def test_slices_that_make_no_whole_are_refused(world, finished, encoder_files, tmp_path: Path) -> None:
    zero, one = make_slices(world, 2, tmp_path)
    (third,) = make_slices(world, 3, tmp_path / "thirds")[:1]
    other = encoder_files(tmp_path / "other", seed=1)
    foreign = tmp_path / "foreign"
    options = ["--options", "encoder.weights", other["weights"]]
    assert world.call("--shard", "1/2", "--out", foreign, *options).exit_code == 0
    empty = tmp_path / "empty"
    empty.mkdir()
    out = tmp_path / "whole"
    for words, message in (
        ([zero], "slice 1/2 is missing (1 of 2): name its folder too"),
        ([one], "slice 0/2 is missing"),
        ([zero, one, zero], f"{zero}/train and {zero}/train are both slice 0/2: name it once"),
        (
            [zero, foreign],
            f"the slices {zero}/train and {foreign}/train are of different stores, made with enc",
        ),
        (
            [zero, third],
            f"{zero}/train is slice 0/2 and {third}/train is slice 0/3: name slices of one number",
        ),
        ([zero, finished.store], f"{finished.store}/train is no slice of a store"),
        ([zero, empty], f"there is no embedding store in {empty}"),
        ([zero, tmp_path / "absent"], f"there is no embedding store in {tmp_path}/absent"),
        ([zero / "train", one], f"{zero / 'train'} has a slice of one store and {one} has none"),
    ):
        done = merge(*words, "--out", out)
        assert done.exit_code == 2, done.output
        assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1, done.stderr
        assert not out.exists()
    done = merge(zero, one, "--out", zero)
    assert f"--out names the slice {zero}" in done.stderr
    assert merge(zero / "train", one / "train", "--out", out).exit_code == 0
    assert world.contents(out) == finished.contents(finished.store / "train")


def test_an_unfinished_or_damaged_slice_is_refused(world, tmp_path: Path) -> None:
    zero, one = make_slices(world, 2, tmp_path)
    shard = one / "train/vision-00001.pt"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9] + b"x" + whole[-8:])
    done = merge(zero, one, "--out", tmp_path / "whole")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: the shard {shard} is damaged (its sha256 is not the manifest's)")
    shard.unlink()
    assert f"the shard {shard} is missing" in merge(zero, one, "--out", tmp_path / "whole").stderr
    manifest = json.loads((one / "train/manifest.json").read_text())
    (one / "train/manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    assert f"the slice {one}/train is unfinished" in merge(zero, one, "--out", tmp_path / "whole").stderr
    with pytest.raises(InputError, match="is unfinished"):
        EmbeddingStore.open(tmp_path / "whole/train")


def test_a_slice_is_not_taken_for_a_store_nor_for_another_slice(world, tmp_path: Path) -> None:
    part = tmp_path / "part"
    assert world.call("--shard", "0/2", "--out", part).exit_code == 0
    with pytest.raises(
        InputError, match="is slice 0/2 of a store: join the slices with `python -m extraction m"
    ):
        EmbeddingStore.open(part / "train")
    for words, has in ((["--shard", "1/2"], "slice 1/2"), ([], "all of it")):
        done = world.call(*words, "--out", part)
        assert done.exit_code == 2
        assert (
            f"the store {part}/train was made as slice 0/2, this run makes {has}: name another" in done.stderr
        )
    assert "--shard must be I/N" in world.call("--shard", "2/2").stderr


def test_under_torchrun_each_process_makes_its_slice(world, finished, tmp_path: Path) -> None:
    bad = world.image_ids[0]
    world.picture(bad).write_text(
        "no picture"
    )  # one process ends with something to tell, the other must go on
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = world.command("--out", str(tmp_path / "store"))[1:]  # -m extraction visdial ...
    done = subprocess.run(
        [*launch, *command], env=world.environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    parts = [tmp_path / f"store-{i}-of-2" for i in range(2)]
    assert merge(*parts, "--out", tmp_path / "whole").exit_code == 1
    world.write_picture(bad)
    for i, part in enumerate(parts):
        assert world.call("--shard", f"{i}/2", "--out", part).exit_code == 0
    assert merge(*parts, "--out", tmp_path / "whole").exit_code == 0
    assert world.contents(tmp_path / "whole") == finished.contents()


def test_under_torchrun_nothing_is_prepared(world, monkeypatch: pytest.MonkeyPatch) -> None:
    world.annotations.unlink()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = world.write_config("prepare.yaml", data={**world.sections()["data"], "prepare": "make it"})
    done = world.call(config=config)
    assert done.exit_code == 2
    assert "under torchrun every process would make them: run `make it` first" in done.stderr
