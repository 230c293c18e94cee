import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from extraction import store_writer
from extraction.errors import InputError
from extraction.store_writer import StoreWriter

HEADER: dict[str, Any] = {
    "split": "train",
    "encoder": {"name": "imagebind", "weights_sha256": "a" * 64, "config": {"vision_num_blocks": 2}},
    "computed_with": {"backend": "builtin", "dtype": "float32"},
    "annotations": {"file": "a.json", "sha256": "b" * 64, "dialogs": 3},
    "placeholder_images": 0,
    "shard_size": 2,
    "modalities": {"vision": {"width": 3, "dtype": "float16"}, "text": {"width": 3, "dtype": "float16"}},
}
EMPTY = {"ids": torch.arange(0), "embeddings": torch.empty(0, 3).half()}
NO_DIALOGS = {"ids": torch.arange(0), "vision": torch.arange(0), "text": torch.empty(0, 1, dtype=torch.int64)}


def write(folder: Path, header: dict[str, Any], finish: bool) -> None:
    with StoreWriter(folder, header) as writer:
        writer.write("vision", 0, **EMPTY)
        writer.write("text", 0, **EMPTY)
        if finish:
            writer.finish(NO_DIALOGS, {"vision": 1, "text": 1}, [])


@pytest.mark.parametrize("finish", [False, True])
@pytest.mark.parametrize(
    ("place", "value", "old", "new"),
    [
        (("encoder", "weights_sha256"), "c" * 64, "encoder.weights_sha256 aaaaaaaaaaaa", "cccccccccccc"),
        (("encoder", "config", "vision_num_blocks"), 4, "encoder.config.vision_num_blocks 2", "_blocks 4"),
        (("computed_with", "dtype"), "bfloat16", '"float32"', '"bfloat16"'),
        (("annotations", "sha256"), "d" * 64, "annotations a.json (bbbbbbbbbbbb", "a.json (dddddddddddd"),
        (("placeholder_images",), 5, "placeholder_images 0", "placeholder_images 5"),
        (("shard_size",), 8, "shard_size 2", "shard_size 8"),
        (("modalities", "text", "width"), 4, "modalities.text.width 3", "modalities.text.width 4"),
    ],
)
def test_a_store_of_another_making_is_refused_with_both_named(
    tmp_path: Path, finish: bool, place: tuple[str, ...], value: Any, old: str, new: str
) -> None:
    write(tmp_path, HEADER, finish)
    other = copy.deepcopy(HEADER)
    target = other
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError) as caught, StoreWriter(tmp_path, other):
        pass
    made, has = str(caught.value).split(", this run has ")
    assert old in made and new in has
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_same_annotations_in_another_file_are_the_same(tmp_path: Path) -> None:
    write(tmp_path, HEADER, finish=True)
    renamed = copy.deepcopy(HEADER)
    renamed["annotations"]["file"] = "renamed.json.gz"
    with StoreWriter(tmp_path, renamed) as writer:
        assert writer.complete


def test_a_store_is_incomplete_as_soon_as_one_shard_is_written_again(tmp_path: Path) -> None:
    write(tmp_path, HEADER, finish=True)
    whole = (tmp_path / "manifest.json").read_bytes()
    with StoreWriter(tmp_path, HEADER) as writer:
        writer.write("vision", 0, **EMPTY)
        assert b'"complete": false' in (tmp_path / "manifest.json").read_bytes()
    write(tmp_path, HEADER, finish=True)
    assert (tmp_path / "manifest.json").read_bytes() == whole


def test_a_shard_that_rotted_is_found_when_the_extraction_runs_again(tmp_path: Path) -> None:
    write(tmp_path, HEADER, finish=True)
    path = tmp_path / "vision-00000.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"vision-00000\.pt is damaged"), StoreWriter(tmp_path, HEADER):
        pass


def test_leftovers_of_a_killed_run_are_cleared(tmp_path: Path) -> None:
    write(tmp_path, HEADER, finish=False)
    (tmp_path / "vision-00001.pt.tmp").write_bytes(b"half a shard")
    with StoreWriter(tmp_path, HEADER) as writer:
        assert writer.read_ids("vision", 1) is None
    assert not list(tmp_path.glob("*.tmp"))


def test_shards_without_a_manifest_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "vision-00000.pt").write_bytes(b"somebody's")
    with pytest.raises(InputError, match="shards without a manifest"), StoreWriter(tmp_path, HEADER):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["vision-00000.pt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="file/store cannot be made"),
        StoreWriter(tmp_path / "file/store", HEADER),
    ):
        pass


HOLD = """
import fcntl, os, sys, time
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Start a process that holds a folder's lock for some seconds."""
    started = []

    def start(seconds: float) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path, str(seconds)], stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"held\n"

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_two_runs_do_not_write_to_one_store(tmp_path: Path, holder, monkeypatch) -> None:
    monkeypatch.setattr(store_writer, "LOCK_WAIT_S", 0.3)
    holder(60)
    with pytest.raises(InputError, match="another run is writing"), StoreWriter(tmp_path, HEADER):
        pass
    assert not list(tmp_path.iterdir())


def test_a_run_waits_for_what_a_killed_one_leaves_behind(tmp_path: Path, holder) -> None:
    holder(1)
    write(tmp_path, HEADER, finish=True)
    assert (tmp_path / "manifest.json").exists()
