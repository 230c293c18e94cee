"""`python -m extraction files` on a mixture of files: what it makes, and that it makes it again."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from extraction.__main__ import app
from extraction.encoder import Encoder
from extraction.errors import InputError
from extraction.item_store import ItemStore
from extraction.store import EmbeddingStore

KILLED_EVERYWHERE = Path(__file__).with_name("killed_everywhere.py")
EQUAL = {"vision": 8, "video": 2, "audio": 4, "text": 10}  # distinct contents


def embeddings(store: ItemStore) -> dict[tuple[str, str], torch.Tensor]:
    """Every embedding by kind and sha256."""
    return {
        (kind, bytes(digest.tolist()).hex()): row
        for kind in EQUAL
        for ids, rows in store.chunks(kind)
        for digest, row in zip(ids, rows, strict=True)
    }


def test_the_store_holds_what_the_encoder_gives(finished_items) -> None:
    store = ItemStore.open(finished_items.store, verify=True)
    encoder = Encoder.from_config(finished_items.encoder)
    stored, items = embeddings(store), list(store.items())
    assert {kind: store.rows(kind) for kind in EQUAL} == EQUAL
    assert len(stored) == sum(EQUAL.values())
    assert len(items) == len(store) == 9 + 2 + 4 + 12
    methods = {"vision": "encode_images", "video": "encode_videos", "audio": "encode_audio"}
    for item in items:
        kind, row = item["modality"], stored[item["modality"], item["sha256"]]
        source = Path(item["source"])
        if kind == "text":
            line = source.read_text("utf-8-sig").splitlines()[item["line"] - 1]
            assert item["text"] == line.strip() and item["text"]
            assert item["sha256"] == hashlib.sha256(item["text"].encode()).hexdigest()
            wanted = encoder.encode_texts([item["text"]])[0]
        else:
            assert item["line"] is None
            assert item["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
            wanted = getattr(encoder, methods[kind])([source])[0]
        torch.testing.assert_close(row, wanted, atol=2e-2, rtol=0)
    assert store.manifest["encoder"] == encoder.identity()
    assert store.manifest["sources"] == [str(finished_items.items)]
    names = [(item["source"], item["line"] or 0) for item in items]
    assert names == sorted(names)
    assert not any("hidden" in name or "pdf" in name for name, _ in names)


def test_equal_contents_are_encoded_once_and_counted(finished_items, item_world) -> None:
    done = item_world.call()
    assert done.exit_code == 0, done.output
    said = f"27 items: 8 vision, 2 video, 4 audio, 10 text in {item_world.store} (24 encoded now)"
    assert done.stdout.splitlines()[-1] == said
    assert "1 files of other kinds were passed over" in done.stderr
    ours, theirs = item_world.contents(), finished_items.contents()
    assert ours.keys() == theirs.keys()
    for name in (name for name in ours if name.startswith(("vision", "text"))):
        assert ours[name] == theirs[name]  # wherever the files lie


def test_the_same_command_again_does_nothing(finished_items) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_items.store.iterdir()}
    done = finished_items.call()
    assert done.exit_code == 0, done.output
    assert "(0 encoded now)" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in finished_items.store.iterdir()} == before


def test_worker_processes_change_nothing(item_world) -> None:
    assert item_world.call().exit_code == 0
    other = item_world.folder / "other"
    done = item_world.run("--out", other, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert item_world.contents(other) == item_world.contents()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_kill_9_at_random_moments_then_the_same_command(item_world, workers: str) -> None:
    rng = random.Random(int(workers))
    whole = item_world.folder / "whole"
    assert item_world.call("--out", whole).exit_code == 0
    killed = []
    for shards in sorted(rng.sample(range(10), 3)):
        process = subprocess.Popen(
            item_world.command("--workers", workers), env=item_world.environment(), stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 200
        while len(list(item_world.store.glob("*.pt"))) < shards and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(rng.random() * 0.03)
        process.kill()
        killed.append(process.wait() == -signal.SIGKILL)
    assert any(killed)
    done = item_world.run("--workers", workers)
    assert done.returncode == 0, done.stderr
    assert item_world.contents() == item_world.contents(whole)


@pytest.mark.slow
def test_kill_9_at_every_write_then_the_same_command(item_world) -> None:
    (item_world.items / "broken.png").write_text("no picture")  # so that failed.jsonl is written too
    sizes = {"vision": 9, "video": 9, "audio": 9, "text": 9}
    item_world.config.write_text(json.dumps(item_world.sections(shard_size=sizes)))
    kinds = ["--modality", "vision", "--modality", "text"]
    assert item_world.call(*kinds).exit_code == 1
    words = item_world.command(*kinds, "--out", item_world.store)[3:-2]
    done = subprocess.run(
        [sys.executable, KILLED_EVERYWHERE, item_world.folder / "stores", *words],
        env=item_world.environment(),
        text=True,
        capture_output=True,
        timeout=500,
    )
    writes = 3 + 1 + 1 + 2  # shards, items, failed, the manifest twice
    assert done.stdout.endswith(f"{2 * writes} runs were killed; the next ended with 1\n"), done.stdout
    for last in range(2 * writes):
        folder = item_world.folder / "stores" / str(last)
        again = item_world.call(*kinds, "--out", folder)
        assert again.exit_code == 1, again.output
        assert item_world.contents(folder) == item_world.contents()


def test_only_what_changed_is_encoded_again(item_world) -> None:
    assert item_world.call().exit_code == 0
    times = {path.name: path.stat().st_mtime_ns for path in item_world.store.iterdir()}
    item_world.write_picture("zz.png", 99)  # the last: its shard alone is another one
    (item_world.items / "tone.mp3").rename(item_world.items / "renamed.mp3")  # the same content elsewhere
    done = item_world.call()
    assert done.exit_code == 0, done.output
    assert "9 vision" in done.stdout and "(3 encoded now)" in done.stdout
    changed = {p.name for p in item_world.store.iterdir() if times.get(p.name) != p.stat().st_mtime_ns}
    assert changed == {"vision-00002.pt", "items.jsonl", "manifest.json"}
    shutil.rmtree(item_world.items / "b")
    (item_world.items / "a/lines.txt").write_text("one line only")
    assert item_world.call().exit_code == 0
    assert not (item_world.store / "video-00001.pt").exists()
    fresh = item_world.folder / "fresh"
    assert item_world.call("--out", fresh).exit_code == 0
    assert item_world.contents() == item_world.contents(fresh)


def test_what_cannot_be_read_is_listed_and_the_rest_is_done(item_world) -> None:
    items = item_world.items
    whole = {name: (items / name).read_bytes() for name in ("a/1.jpg", "film.mp4", "b/tone.flac")}
    (items / "a/1.jpg").write_bytes(whole["a/1.jpg"][:99])
    (items / "film.mp4").write_bytes(whole["film.mp4"][:60])
    (items / "b/tone.flac").write_bytes(b"no sound")
    shutil.copy(items / "a/1.jpg", items / "c/copy of it.jpg")
    (items / "gone.png").symlink_to(items / "nowhere.png")
    (items / "bytes.txt").write_bytes(b"a good line\n\xff\xfe no UTF-8\n" + b"x" * 70000 + b"\nthe end\n")
    done = item_world.call()
    assert done.exit_code == 1, done.output
    failures = [json.loads(line) for line in (item_world.store / "failed.jsonl").read_text().splitlines()]
    named = [(row["source"].removeprefix(f"{items}/"), row["line"], row["modality"]) for row in failures]
    assert named == [
        ("a/1.jpg", None, "vision"),
        ("b/tone.flac", None, "audio"),
        ("bytes.txt", 2, "text"),
        ("bytes.txt", 3, "text"),
        ("c/copy of it.jpg", None, "vision"),
        ("film.mp4", None, "video"),
        ("gone.png", None, "vision"),
    ]
    assert all(row["reason"] for row in failures)
    assert done.stderr.count("failed: ") == 7
    assert f"7 of 33 items could not be read and are listed in {item_world.store}/failed.js" in done.stderr
    store = ItemStore.open(item_world.store, verify=True)
    assert {kind: store.rows(kind) for kind in EQUAL} == {"vision": 7, "video": 1, "audio": 3, "text": 12}
    assert store.manifest["failed"] == 7
    again = item_world.call()
    assert again.exit_code == 1 and "(0 encoded now)" in again.stdout

    for name, content in whole.items():
        (items / name).write_bytes(content)
    (items / "gone.png").unlink()
    (items / "bytes.txt").write_text("a good line")
    (items / "c/copy of it.jpg").unlink()
    assert item_world.call().exit_code == 0
    assert not (item_world.store / "failed.jsonl").exists()
    fresh = item_world.folder / "fresh"
    assert item_world.call("--out", fresh).exit_code == 0
    assert item_world.contents() == item_world.contents(fresh)


@pytest.mark.parametrize("of", [2, 5])
def test_merged_slices_are_the_store_made_in_one_piece(item_world, of: int) -> None:
    (item_world.items / "a/1.jpg").write_text("no picture")
    (item_world.items / "bytes.txt").write_bytes(b"\xff no UTF-8\n")
    assert item_world.call().exit_code == 1
    parts = [item_world.folder / f"part{i}" for i in range(of)]
    for i, part in enumerate(parts):
        done = item_world.call("--shard", f"{i}/{of}", "--out", part)
        assert done.exit_code == 1
    assert all(len(list(part.glob("*.pt"))) < 10 for part in parts)
    with pytest.raises(InputError, match="is slice 0/"):
        ItemStore.open(parts[0])
    whole = item_world.folder / "whole"
    done = CliRunner().invoke(app, ["merge", *map(str, parts), "--out", str(whole)])
    assert done.exit_code == 1, done.output
    assert item_world.contents(whole) == item_world.contents()

    (item_world.items / "a/1.jpg").unlink()
    assert item_world.call("--shard", f"0/{of}", "--out", parts[0]).exit_code == 1
    done = CliRunner().invoke(app, ["merge", *map(str, parts), "--out", str(whole)])
    assert done.exit_code == 2
    assert f"the slices {parts[0]} and {parts[1]} were made of different files" in done.stderr


def test_under_torchrun_a_process_makes_its_slice_and_ends_well(item_world, monkeypatch) -> None:
    (item_world.items / "a/1.jpg").write_text("no picture")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    done = item_world.call()
    assert done.exit_code == 0, done.output  # for torchrun ends the others as soon as one fails
    assert not item_world.store.exists()
    manifest = json.loads((item_world.folder / "store-1-of-3/manifest.json").read_text())
    assert manifest["slice"] == "1/3"
    assert [shard["file"] for shard in manifest["modalities"]["text"]["shards"]] == ["text-00001.pt"]


def test_the_towers_that_no_file_needs_are_never_read(item_world) -> None:
    weights = load_file(item_world.encoder["weights"])
    shutil.rmtree(item_world.items)
    item_world.items.mkdir()
    (item_world.items / "lines.txt").write_text("is it sunny\n")
    partial = item_world.folder / "text.pth"
    torch.save({name: value for name, value in weights.items() if ".text." in name}, partial)
    done = item_world.call("--options", "encoder.weights", partial)
    assert done.exit_code == 0, done.output
    item_world.write_picture("picture.png", 1)
    other = item_world.folder / "other"
    done = item_world.call("--out", other, "--options", "encoder.weights", partial)
    assert done.exit_code == 2
    assert done.stderr == (
        f"error: {item_world.items}/picture.png needs the vision tower, and the weights {partial} have only "
        "text: name others in encoder.weights (--config), or leave such files out with --modality text\n"
    )
    assert not other.exists()
    done = item_world.call("--out", other, "--modality", "text", "--options", "encoder.weights", partial)
    assert done.exit_code == 0
    assert (ItemStore.open(other).rows("text"), ItemStore.open(other).rows("vision")) == (1, 0)


def test_wrong_input_gives_one_sentence(item_world, finished) -> None:
    items, store = item_world.items, item_world.store
    empty = item_world.folder / "empty"
    empty.mkdir()
    for words, message in (
        ([items / "absent.png"], f"there is no file or folder {items}/absent.png"),
        ([items / "notes.pdf"], f"{items}/notes.pdf is of no known kind: files must end in one of .jpg, "),
        (["--modality", "sound"], "unknown key sound in --modality: the nearest known key is "),
        (["--options", "batch_size.images", "3"], "unknown key batch_size.images in --options"),
        (
            ["--options", "shard_size.audio", "0"],
            f"{item_world.config}: shard_size.audio must be a whole number",
        ),
        (["--workers", "-1"], f"{item_world.config}: workers must be auto or a whole number of at least 0"),
        (["--shard", "2/2"], "--shard must be I/N"),
        (["--options", "encoder.weights", "/no/weights"], "there is no weights file /no/weights"),
    ):
        done = item_world.call(*words)
        assert done.exit_code == 2, done.output
        assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1, done.stderr
        assert not store.exists()
    words = [item_world.command()[3], str(empty), "--config", str(item_world.config), "--out", str(store)]
    done = subprocess.run(
        [sys.executable, "-m", "extraction", *words],
        capture_output=True,
        text=True,
        env=item_world.environment(),
        timeout=200,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: there is nothing to encode in {empty}: no file ends in one of .jpg, .jpeg, .png, .webp, "
        ".bmp, .gif, .tif, .tiff, .mp4, .mov, .mkv, .webm, .wav, .flac, .mp3, .txt\n"
    )
    assert not store.exists()


def test_a_store_of_something_else_is_refused(item_world, finished, encoder_files) -> None:
    assert item_world.call().exit_code == 0
    before = item_world.contents()
    done = item_world.call(item_world.items / "a")
    assert done.exit_code == 2
    assert "was made with sources [" in done.stderr and "name another folder with --out" in done.stderr
    other = encoder_files(item_world.folder / "other", seed=1, modalities=["vision", "text", "audio"])
    done = item_world.call("--options", "encoder.weights", other["weights"])
    assert done.exit_code == 2 and "was made with encoder.weights_sha256" in done.stderr
    assert "was made with kinds" in item_world.call("--modality", "text").stderr
    assert item_world.contents() == before
    done = item_world.call("--out", finished.store / "train")
    assert done.exit_code == 2 and "was made with sources null" in done.stderr
    with pytest.raises(InputError, match="holds other things than `python -m extraction visdial` writes"):
        EmbeddingStore.open(item_world.store)
    with pytest.raises(InputError, match="holds other things than `python -m extraction files` writes"):
        ItemStore.open(finished.store / "train")


def test_names_of_any_bytes_are_kept(item_world) -> None:
    shutil.rmtree(item_world.items)
    item_world.items.mkdir()
    names = [
        b"caf\xe9 of Latin-1",
        b"new\nline",
        b"[red]not markup",
        "Hündchen 🐶".encode(),
        b"a \\ud83d",
        b'"sha256": "' + b"0" * 64 + b'"',
    ]
    for i, name in enumerate(names):
        picture = item_world.write_picture(f"{i}.png", i)
        picture.rename(os.fsdecode(os.fsencode(item_world.items) + b"/" + name + b".png"))
    broken = os.fsdecode(os.fsencode(item_world.items) + b"/caf\xe9 broken\x1b[31m.png")
    Path(broken).write_text("no picture")
    done = item_world.call()
    assert done.exit_code == 1, done.output
    assert "\x1b" not in done.stderr
    store = ItemStore.open(item_world.store)
    found = [os.fsencode(item["source"]) for item in store.items()]
    folder = os.fsencode(item_world.items)
    assert found == sorted([*(folder + b"/" + name + b".png" for name in names), os.fsencode(broken)])
    (failed,) = (item_world.store / "failed.jsonl").read_text("utf-8").splitlines()
    assert json.loads(failed)["source"] == broken
    done = item_world.search("a dog")
    assert done.exit_code == 0, done.output
    assert "[red]not markup.png" in done.stdout and "new\\nline.png" in done.stdout


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_files(item_world) -> None:
    """Peak of the run and its worker; pictures as the model takes them would be 600 MB more."""
    peaks = []
    for count in (400, 4400):
        shutil.rmtree(item_world.items)
        item_world.items.mkdir()
        for i in range(count):
            Image.new("RGB", (8, 8), (i % 256, i // 256, 0)).save(item_world.items / f"{i}.bmp")
        options = ["--options", "shard_size.vision", "500", "batch_size.vision", "50"]
        out = item_world.folder / f"store{count}"
        words = item_world.command("--workers", "1", "--out", out, *options)
        process = subprocess.Popen(words, env=item_world.environment(), stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        peaks.append(usage.ru_maxrss / 1024)
    assert peaks[1] < peaks[0] + 40, peaks


def test_real_pictures_sounds_and_films(shared: Path, item_world) -> None:
    shutil.rmtree(item_world.items)
    item_world.items.symlink_to(shared / "real", target_is_directory=True)
    done = item_world.call()
    assert done.exit_code == 0, done.output
    store = ItemStore.open(item_world.store, verify=True)
    assert {kind: store.rows(kind) for kind in EQUAL} == {"vision": 4, "video": 1, "audio": 3, "text": 0}
    done = item_world.search(shared / "real/imagebind/dog_audio.wav", "--top", "1")
    (line,) = [line for line in done.stdout.splitlines() if "1.0000" in line]
    assert "real/imagebind/dog_audio.wav" in line or "items/imagebind/dog_audio.wav" in line
