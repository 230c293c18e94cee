"""`python -m extraction convert`: weights in one file become a folder of towers that loads as they do."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner, Result

from extraction.__main__ import app
from extraction.encoder import Encoder
from extraction.errors import InputError
from extraction.imagebind import ImageBind, ImageBindConfig
from extraction.imagebind.config import read_config
from extraction.imagebind.towers import write_tower
from extraction.imagebind.weights import load_imagebind, weights_sha256

PROJECT = Path(__file__).resolve().parents[2]
HEAD = "modality_heads.text.proj.1.weight"


@pytest.fixture
def section(tmp_path: Path, encoder_files: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return encoder_files(tmp_path / "encoder")


@pytest.fixture
def converted(section: dict[str, Any], tmp_path: Path) -> Path:
    done = call(section, tmp_path / "towers")
    assert done.exit_code == 0, done.output
    return tmp_path / "towers"


def call(section: dict[str, Any], out: Path, *options: str | Path) -> Result:
    words = ["convert", section["weights"], "--out", out, "--config", section["config"], *options]
    return CliRunner().invoke(app, list(map(str, words)))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_tensor_is_in_its_towers_file_under_its_name(section: dict[str, Any], converted: Path) -> None:
    whole = load_file(section["weights"])
    assert sorted(path.name for path in converted.iterdir()) == ["text.safetensors", "vision.safetensors"]
    for modality in ("vision", "text"):
        tower = load_file(converted / f"{modality}.safetensors")  # the format's own reader
        wanted = {name: value for name, value in whole.items() if name.split(".")[1] == modality}
        assert tower.keys() == wanted.keys()
        assert all(torch.equal(tower[name], wanted[name]) for name in wanted)


def test_the_folder_stands_for_the_file(section: dict[str, Any], converted: Path) -> None:
    one, other = (
        Encoder.from_config({**section, "weights": str(w)}) for w in (section["weights"], converted)
    )
    assert one.identity() == other.identity()
    assert torch.equal(one.encode_texts(["is it sunny", "no"]), other.encode_texts(["is it sunny", "no"]))


def test_a_load_opens_only_the_towers_asked_for(section: dict[str, Any], converted: Path) -> None:
    size = (converted / "vision.safetensors").stat().st_size
    header = (converted / "vision.safetensors").read_bytes()[:8]
    kept = 8 + int.from_bytes(header, "little")
    with (converted / "vision.safetensors").open("r+b") as file:
        file.truncate(kept)  # the header alone: whatever reads a tensor fails
    encoder = Encoder.from_config({**section, "weights": str(converted)})
    with pytest.raises(InputError, match=r"vision\.safetensors is damaged"):
        encoder.encode_texts(["no"])
    with (converted / "vision.safetensors").open("r+b") as file:
        file.truncate(size)  # the right length, and every value zero
    assert encoder.encode_texts(["no"]).norm() > 1


def test_a_converted_dtype_is_kept_and_mixed_ones_are_aligned(tmp_path: Path) -> None:
    tensors = {
        "modality_heads.text.a": torch.randn(3).bfloat16(),
        "modality_heads.text.b": torch.randn(2, 5),
        "modality_heads.text.c": torch.tensor(2.5, dtype=torch.float64),
        "modality_heads.text.d": torch.randn(4, 3).half().T,
        "modality_heads.text.e": torch.empty(0, 7),
    }
    read = load_file(write_tower(tmp_path, "text", tensors, "0" * 64))
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype and torch.equal(read[name], value)


def test_the_real_command_converts_a_pth_to_the_same_bytes(section: dict[str, Any], tmp_path: Path) -> None:
    torch.save(load_file(section["weights"]), tmp_path / "weights.pth")
    words = [sys.executable, "-m", "extraction", "convert", tmp_path / "weights.pth", "--out"]
    words += [tmp_path / "new/towers", "--config", section["config"], "--modality", "text"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/new/towers/text.safetensors: 31 tensors, ")
    assert [path.name for path in (tmp_path / "new/towers").iterdir()] == ["text.safetensors"]
    assert weights_sha256(tmp_path / "new/towers") == weights_sha256(tmp_path / "weights.pth")
    ours = load_file(tmp_path / "new/towers/text.safetensors")
    assert all(torch.equal(value, load_file(section["weights"])[name]) for name, value in ours.items())


def test_again_nothing_is_done_and_other_weights_are_refused(
    section: dict[str, Any], converted: Path, encoder_files: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in converted.iterdir()}
    assert call(section, converted).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in converted.iterdir()} == before
    done = call(encoder_files(tmp_path / "other", seed=1), converted)
    assert done.exit_code == 2
    assert (
        done.stderr == f"error: {converted} exists and holds something else: name another folder with --out\n"
    )
    (tmp_path / "file").touch()
    assert "file exists and holds something else" in call(section, tmp_path / "file").stderr


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: w.pop(HEAD), f"1 missing ({HEAD})"),
        (
            lambda w: w.update({"modality_heads.text.x": torch.zeros(1)}),
            "1 unexpected (modality_heads.text.x)",
        ),
        (lambda w: w.update({HEAD: torch.zeros(3, 2)}), f"{HEAD} is [3, 2] and must be [12, 16]"),
        (lambda w: w.update({HEAD: torch.zeros(12, 16).int()}), f"{HEAD} holds torch.int32"),
        (
            lambda w: [w.pop(name) for name in list(w) if ".text." in name],
            "(no text tower, only vision): the weights do not fit this ImageBind configuration: 31 missing "
            "(modality_preprocessors.text.",
        ),
        (lambda w: w.clear(), "missing (modality_preprocessors.vision.cls_token; "),
    ],
)
def test_a_wrong_or_partial_file_is_refused_with_its_keys(
    section: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Tensor]], object], named: str
) -> None:
    weights = load_file(section["weights"])
    change(weights)
    path = tmp_path / "changed.safetensors"
    save_file(weights, path)
    done = call({**section, "weights": path}, tmp_path / "towers")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {path}") and done.stderr.count("\n") == 1
    assert named in done.stderr
    assert not (tmp_path / "towers").exists()


def test_what_cannot_be_converted_is_told(section: dict[str, Any], converted: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words, message in (
        ([str(tmp_path / "absent.pth")], "there is no weights file"),
        ([str(converted)], "is a folder: name the weights file"),
        ([section["weights"], "--modality", "txet"], "the nearest known key is text"),
        ([section["weights"], "--config", str(tmp_path / "absent.json")], "absent.json cannot be read"),
        ([section["weights"]], "the weights do not fit this ImageBind configuration"),
    ):
        done = CliRunner().invoke(app, ["convert", *words, "--out", str(out)])
        assert done.exit_code == 2
        assert message in done.stderr and done.stderr.count("\n") == 1
        assert not out.exists()


def test_a_killed_run_leaves_no_folder_and_the_next_one_makes_it(
    section: dict[str, Any], converted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "other"
    script = """
import os, signal, sys
import extraction.convert as module
from extraction.__main__ import app
write, calls = module.write_tower, []
def killing(*arguments):
    calls.append(arguments)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*arguments)
module.write_tower = killing
app(sys.argv[1:])
"""
    words = ["convert", section["weights"], "--out", str(out), "--config", section["config"]]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    killed = subprocess.run([sys.executable, "-c", script, *words], env=environment, timeout=200)
    assert killed.returncode == -9
    assert not out.exists() and out.with_name("other.tmp").is_dir()
    assert call(section, out).exit_code == 0
    assert contents(out) == contents(converted)
    assert not out.with_name("other.tmp").exists()


def test_a_folder_that_is_no_conversion_is_refused(
    section: dict[str, Any], converted: Path, encoder_files: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    def refused(folder: Path, message: str) -> None:
        encoder = Encoder.from_config({**section, "weights": str(folder)})
        with pytest.raises(InputError, match=message) as caught:
            encoder.encode_texts(["no"])
        assert str(folder) in str(caught.value)

    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "holds no towers of ImageBind")
    other = tmp_path / "mixed"
    assert call(encoder_files(tmp_path / "second", seed=1), other).exit_code == 0
    shutil.copy(converted / "vision.safetensors", other)
    refused(other, "were taken from different weights")
    shutil.copy(converted / "text.safetensors", other / "vision.safetensors")
    refused(other, r"vision\.safetensors is no vision tower")
    save_file({"a": torch.zeros(1)}, other / "vision.safetensors")
    refused(other, r"vision\.safetensors is no vision tower")
    (other / "vision.safetensors").write_bytes(b"no weights")
    refused(other, r"vision\.safetensors is damaged: convert it again")
    (other / "text.safetensors").unlink()
    shutil.copy(converted / "vision.safetensors", other)
    refused(other, "has no text tower, only vision")


MEASURED = """
import sys
from pathlib import Path
from extraction import files
from extraction.convert import convert_weights

def anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("RssAnon"))

most = 0
class Watched:
    def __init__(self, file):
        self.file = file
    def __getattr__(self, name):
        return getattr(self.file, name)
    def write(self, data):
        global most
        most = max(most, anonymous())
        return self.file.write(data)

import extraction.imagebind.towers as towers
write_atomically = towers.write_atomically
towers.write_atomically = lambda path, write: write_atomically(path, lambda file: write(Watched(file)))
convert_weights(Path(sys.argv[1]), Path(sys.argv[2] + "_warm"), sys.argv[3], ["text"])
before, most = anonymous(), 0
convert_weights(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
print(most - before)
"""


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_memory_is_not_that_of_the_weights(section: dict[str, Any], tmp_path: Path, suffix: str) -> None:
    sizes = json.loads(Path(section["config"]).read_text())
    sizes |= {"vision_embed_dim": 640, "vision_num_blocks": 6}  # 120 MB, the largest tensor 6.6 MB
    config, weights = tmp_path / "wide.json", tmp_path / f"wide{suffix}"
    config.write_text(json.dumps(sizes))
    state = ImageBind(ImageBindConfig.from_dict(sizes)).state_dict()
    total = sum(value.numel() * value.element_size() for value in state.values()) / 1e6
    assert total > 115
    save_file(state, weights) if suffix == ".safetensors" else torch.save(state, weights)
    words = [sys.executable, "-c", MEASURED, weights, tmp_path / "towers", config]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 30, done.stdout  # megabytes


def test_load_imagebind_takes_the_folder(section: dict[str, Any], converted: Path) -> None:
    config = read_config(section["config"])
    for modalities in (("vision",), ("text", "vision")):
        ours = load_imagebind(converted, config, modalities).state_dict()
        theirs = load_imagebind(section["weights"], config, modalities).state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
