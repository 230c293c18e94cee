"""The command line on a small VisDial: what it makes, and what it says where it cannot."""

import gzip
import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from extraction.commands.messages import told_in_one_line
from extraction.encoder import Encoder
from extraction.store import EmbeddingStore


def test_the_store_holds_what_the_encoder_gives(finished) -> None:
    store = EmbeddingStore.open(finished.store / "train", verify=True)
    encoder = Encoder.from_config(finished.encoder)
    data = finished.content["data"]
    assert store.image_ids == finished.image_ids
    for dialog in data["dialogs"][:7]:
        image_id = dialog["image_id"]
        texts = [dialog["caption"], *(data["questions"][turn["question"]] for turn in dialog["dialog"])]
        picture = encoder.encode_images([finished.picture(image_id)])[0]
        torch.testing.assert_close(store.vision(image_id), picture, atol=1e-3, rtol=0)
        torch.testing.assert_close(store.text(image_id), encoder.encode_texts(texts), atol=1e-2, rtol=0)
    assert store.text(image_id).shape == (11, encoder.width)
    assert store.manifest["encoder"] == encoder.identity()
    assert store.manifest["computed_with"] == {"backend": "builtin", "dtype": "float32"}
    assert store.manifest["placeholder_images"] == 0


def test_equal_texts_are_encoded_once(finished) -> None:
    data = finished.content["data"]
    questions = [data["questions"][turn["question"]] for d in data["dialogs"] for turn in d["dialog"]]
    said = [d["caption"] for d in data["dialogs"]] + questions
    text = EmbeddingStore.open(finished.store / "train").manifest["modalities"]["text"]
    assert text["rows"] == len(set(said)) < len(said) / 10


def test_the_same_command_again_does_nothing(finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.store.rglob("*")}
    done = finished.call()
    assert done.exit_code == 0, done.output
    assert "(0 encoded now)" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in finished.store.rglob("*")} == before


def test_a_deleted_shard_is_made_anew_and_no_other(world) -> None:
    assert world.call().exit_code == 0
    before = world.contents()
    folder = world.store / "train"
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*-*.pt")}
    for name in ("vision-00002.pt", "text-00001.pt"):
        (folder / name).unlink()
    done = world.call()
    assert f"({4 + 4} encoded now)" in done.stdout
    assert world.contents() == before
    changed = {name for name, time in times.items() if (folder / name).stat().st_mtime_ns != time}
    assert changed == {"vision-00002.pt", "text-00001.pt", "dialogs-00000.pt"}


def test_worker_processes_change_nothing(world, finished) -> None:
    done = world.run("--options", "workers", "2")
    assert done.returncode == 0, done.stderr
    assert world.contents() == finished.contents()


def test_packed_annotations_give_the_same_shards(world, tmp_path: Path) -> None:
    assert world.call().exit_code == 0
    packed = tmp_path / "visdial.json.gz"
    packed.write_bytes(gzip.compress(world.annotations.read_bytes()))
    key = "data.splits.train.annotations"
    assert "(0 encoded now)" in world.call("--options", key, packed).stdout
    done = world.call("--options", key, packed, "--out", tmp_path / "other")
    assert done.exit_code == 0
    ours, others = world.contents(), world.contents(tmp_path / "other")
    assert {k: v for k, v in ours.items() if k.endswith(".pt")} == {
        k: v for k, v in others.items() if k.endswith(".pt")
    }


def test_a_bad_picture_is_listed_and_the_rest_is_done(world, tmp_path: Path) -> None:
    bad, gone = sorted(world.image_ids)[5], sorted(world.image_ids)[9]
    whole = world.picture(bad).read_bytes()
    world.picture(bad).write_bytes(whole[: len(whole) // 2])
    world.picture(gone).unlink()
    folder = world.store / "train"
    for _ in range(2):  # the second run finds the store complete but for these
        done = world.call()
        assert done.exit_code == 1
        assert str(world.picture(bad)) in done.stderr and str(gone) in done.stderr
        assert f"2 of 30 pictures could not be read and are listed in {folder}/failed.jsonl" in done.stderr
        rows = [json.loads(line) for line in (folder / "failed.jsonl").read_text().splitlines()]
        assert [row["image_id"] for row in rows] == [bad, gone]
        assert [row["file"] for row in rows] == [str(world.picture(bad)), None]
        assert all(row["reason"] for row in rows)
    store = EmbeddingStore.open(folder, verify=True)
    assert sorted(store.failed_ids) == [bad, gone]
    assert store.text(bad).shape[0] == 11
    with pytest.raises(ValueError, match=f"picture {bad} has no embedding"):
        store.vision(bad)
    encoder = Encoder.from_config(world.encoder)
    for image_id in set(world.image_ids) - {bad, gone}:
        wanted = encoder.encode_images([world.picture(image_id)])[0]
        torch.testing.assert_close(store.vision(image_id), wanted, atol=1e-3, rtol=0)

    world.picture(bad).write_bytes(whole)
    assert world.call().exit_code == 1
    assert EmbeddingStore.open(folder, verify=True).failed_ids == [gone]
    world.write_picture(gone)
    assert world.call().exit_code == 0
    assert world.call("--out", tmp_path / "undisturbed").exit_code == 0
    assert world.contents() == world.contents(tmp_path / "undisturbed")


def test_a_split_without_a_readable_picture_still_ends(world) -> None:
    for image_id in world.image_ids:
        world.picture(image_id).write_text("no picture")
    done = world.call()
    assert done.exit_code == 1
    assert done.stderr.count("failed: image") == 10  # the others are in the file only
    store = EmbeddingStore.open(world.store / "train", verify=True)
    assert sorted(store.failed_ids) == sorted(world.image_ids)


def test_a_store_of_other_weights_is_refused(world, encoder_files, tmp_path: Path) -> None:
    assert world.call().exit_code == 0
    other = encoder_files(tmp_path / "other", seed=1)
    done = world.call("--options", "encoder.weights", other["weights"])
    hashes = [
        Encoder.from_config({**world.encoder, "weights": section["weights"]}).identity()["weights_sha256"][
            :12
        ]
        for section in (world.encoder, other)
    ]
    assert done.exit_code == 2
    assert done.stderr == (
        f"error: the store {world.store}/train was made with encoder.weights_sha256 {hashes[0]}..., this run "
        f"has encoder.weights_sha256 {hashes[1]}...: name another folder with --out, or delete the store to "
        "make it anew\n"
    )


def test_a_store_of_other_annotations_is_refused(world) -> None:
    assert world.call().exit_code == 0
    world.content["data"]["dialogs"][0]["caption"] = "another caption"
    world.annotations.write_text(json.dumps(world.content))
    done = world.call()
    assert done.exit_code == 2
    assert done.stderr.count("annotations visdial_1.0_train.json (") == 2


def test_a_truncated_shard_is_named_and_made_anew_once_deleted(world) -> None:
    assert world.call().exit_code == 0
    before = world.contents()
    shard = world.store / "train/text-00003.pt"
    shard.write_bytes(shard.read_bytes()[:-1])
    done = world.call()
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: the shard {shard} is damaged")
    assert done.stderr.endswith("delete it and run the same extraction again: it is made anew\n")
    shard.unlink()
    assert world.call().exit_code == 0
    assert world.contents() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["data.splits.train.images", "[/no/such/folder]"],
            "there is no image folder /no/such/folder (data.splits",
        ),
        (["data.splits.train.images", "[]"], "data.splits.train.images names no folder"),
        (
            ["data.splits.train.annotations", "/no/a.json"],
            "there is no annotation file /no/a.json (data.splits",
        ),
        (["encoder.weights", "/no/weights.pth"], "there is no weights file /no/weights.pth"),
        (
            ["batch_size.vison", "4"],
            "unknown key batch_size.vison in --options: the nearest known key is batch_size.",
        ),
    ],
)
def test_wrong_input_gives_one_sentence(world, options: list[str], message: str) -> None:
    done = world.call("--options", *options)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not world.store.exists()


def test_a_folder_without_any_of_the_pictures_is_told(world) -> None:
    folder = world.folder / "encoder"
    done = world.call("--options", "data.splits.train.images", f"[{folder}]")
    assert done.exit_code == 2
    assert f"none of the 30 pictures of split train is in {folder}" in done.stderr


def test_wrong_words_on_the_command_line(world) -> None:
    assert (
        "unknown key trian in --split: the nearest known key is train"
        in world.call("--split", "trian").stderr
    )
    done = world.call("workers", "2")
    assert done.exit_code == 2 and "unexpected extra argument" in done.stderr


def test_a_missing_folder_of_a_later_split_is_told_before_the_first_is_begun(world) -> None:
    splits = world.sections()["data"]["splits"]
    splits["test"] = {**splits["train"], "images": ["/no/such/folder"]}
    config = world.write_config("two.yaml", data={"splits": splits})
    done = world.call(config=config)
    assert done.exit_code == 2
    assert not world.store.exists()
    done = world.call("--split", "train", config=config)
    assert done.exit_code == 0
    assert [path.name for path in world.store.iterdir()] == ["train"]


def test_placeholders_are_drawn_on_request_only_and_recorded(world) -> None:
    for image_id in world.image_ids[:4]:
        world.picture(image_id).unlink()
    done = world.call("--options", "data.placeholder_images", "true")
    assert done.exit_code == 0
    assert "warning: train: 4 of 30 pictures are placeholders" in done.stderr
    store = EmbeddingStore.open(world.store / "train")
    assert store.manifest["placeholder_images"] == 4
    assert len({tuple(store.vision(image_id).tolist()) for image_id in world.image_ids}) == 30
    done = world.call()
    assert done.exit_code == 2
    assert "made with placeholder_images 4, this run has placeholder_images 0" in done.stderr


def test_real_dialogs_extract_with_placeholders(shared: Path, project: Path, world, monkeypatch) -> None:
    monkeypatch.setenv("MALMM_SHARED", str(shared))
    options: list[Any] = []
    for key in ("weights", "config", "vocabulary"):
        options += [f"encoder.{key}", world.encoder[key]]
    config = project / "configs/extraction/visdial_excerpt.yaml"
    done = world.call("--out", world.store, "--options", *options, "encoder.device", "cpu", config=config)
    assert done.exit_code == 0, done.output
    assert "76 of 76 pictures are placeholders" in done.stderr
    for split, name, count in (
        ("train", "visdial_1.0_val_76dialogs.json.gz", 76),
        ("val", "visdial_v1.0_val_8dialogs.json", 8),
    ):
        path = shared / "real/visdial" / name
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
            data = json.load(file)["data"]
        store = EmbeddingStore.open(world.store / split, verify=True)
        assert store.image_ids == [dialog["image_id"] for dialog in data["dialogs"]]
        assert len(store) == store.manifest["placeholder_images"] == count
        said = {d["caption"] for d in data["dialogs"]}
        said |= {data["questions"][turn["question"]] for d in data["dialogs"] for turn in d["dialog"]}
        assert store.manifest["modalities"]["text"]["rows"] == len(said)
        dialog = data["dialogs"][-1]
        questions = [data["questions"][turn["question"]] for turn in dialog["dialog"]]
        wanted = Encoder.from_config(world.encoder).encode_texts([dialog["caption"], *questions])
        torch.testing.assert_close(store.text(dialog["image_id"]), wanted, atol=1e-2, rtol=0)


MAKE = """
import shutil, sys
shutil.copytree(sys.argv[1], sys.argv[2])
"""


def test_prepare_makes_the_annotations_once(world, tmp_path: Path) -> None:
    source, made, log = tmp_path / "source", tmp_path / "made", tmp_path / "log"
    source.mkdir()
    shutil.move(world.annotations, source / world.annotations.name)
    script = tmp_path / "make.py"
    script.write_text(MAKE + f"open({str(log)!r}, 'a').write(sys.executable + chr(10))\n")
    data = world.sections()["data"]
    data["splits"]["train"]["annotations"] = str(made / world.annotations.name)
    config = world.write_config("prepare.yaml", data={**data, "prepare": f"python {script} {source} {made}"})
    for _ in range(2):
        done = world.call(config=config)
        assert done.exit_code == 0, done.output
    assert log.read_text().splitlines() == [os.path.normpath(sys.executable)]


def test_the_mini_world_is_made_and_extracted_whole(
    world, project: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(project))
    options = ["data.prepare", "python -m malmm data mini --out data/mini --train 12 --val 3 --test 2"]
    for key in ("weights", "config", "vocabulary"):
        options += [f"encoder.{key}", world.encoder[key]]
    done = world.call("--options", *options, config=project / "configs/extraction/mini.yaml")
    assert done.exit_code == 0, done.output
    for split, count in (("train", 12), ("val", 3), ("test", 2)):
        store = EmbeddingStore.open(f"outputs/mini/store/{split}", verify=True)
        assert (len(store), store.failed_ids, store.manifest["placeholder_images"]) == (count, [], 0)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python -c 'raise SystemExit(3)'", "failed with exit status 3"),
        ("/no/such/program", "cannot be run"),
        ("python 'unbalanced", "cannot be run"),
        ("python -c pass", "there is no annotation file"),
    ],
)
def test_a_prepare_that_fails_is_told(world, command: str, message: str) -> None:
    world.annotations.unlink()
    config = world.write_config("prepare.yaml", data={**world.sections()["data"], "prepare": command})
    done = world.call(config=config)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_full_gpu_or_disk_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        OSError(28, "No space left on device"),
        sqlite3.OperationalError("database or disk is full"),
    ):
        with pytest.raises(BaseException) as caught, told_in_one_line():
            raise error
        assert caught.value.exit_code == 2  # type: ignore[attr-defined]
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(RuntimeError, match="a fault of ours"), told_in_one_line():
        raise RuntimeError("a fault of ours")


def test_help_shows_every_option(world) -> None:
    done = world.call("--help")
    assert done.exit_code == 0
    for word in ("--config", "--split", "--out", "--backend", "--options", "failed.jsonl"):
        assert word in done.output
