"""The data set that the model trains on: mini world and real VisDial through the same reader."""

import hashlib
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from extraction.store_writer import StoreWriter
from extraction.visdial import plan, read_visdial
from malmm.config import VisDialConfig
from malmm.data.mini import write_world
from malmm.data.visdial import VisDialDataset, build_datasets, collate
from malmm.errors import InputError

WIDTH = 8


def embed(thing: str | int) -> Tensor:
    """An embedding that belongs to this text or picture only; exact in float16."""
    return torch.tensor([byte / 8 for byte in hashlib.sha256(str(thing).encode()).digest()[:WIDTH]])


def make_store(annotations: Path, folder: Path, failed: tuple[int, ...] = (), shard: int = 5) -> Path:
    """A store as extraction writes it, with `embed` for an encoder."""
    wanted = plan(read_visdial(annotations), annotations)
    header = {
        "annotations": {"file": annotations.name, "sha256": wanted.digest},
        "modalities": {kind: {"width": WIDTH, "dtype": "float16"} for kind in ("vision", "text")},
    }
    seen = [image_id for image_id in wanted.image_ids if image_id not in failed]
    columns = {"vision": (seen, seen), "text": (list(range(len(wanted.texts))), wanted.texts)}
    with StoreWriter(folder, header) as writer:
        shards = {}
        for kind, (ids, things) in columns.items():
            starts = range(0, len(ids), shard)
            shards[kind] = len(starts)
            for k, start in enumerate(starts):
                embeddings = torch.stack([embed(thing) for thing in things[start : start + shard]]).half()
                writer.write(kind, k, ids=torch.tensor(ids[start : start + shard]), embeddings=embeddings)
        row_of = {image_id: row for row, image_id in enumerate(seen)}
        vision = torch.tensor([row_of.get(image_id, -1) for image_id in wanted.dialog_ids.tolist()])
        dialogs = {"ids": wanted.dialog_ids, "vision": vision, "text": wanted.dialog_texts}
        writer.finish(dialogs, shards, [{"image_id": image_id} for image_id in failed])
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mini world with a store beside it."""
    folder = write_world(tmp_path_factory.mktemp("visdial") / "world", train=12, val=6, test=9)
    for split in ("train", "val", "test"):
        make_store(folder / f"visdial_1.0_{split}.json", folder / "store" / split)
    return folder


@pytest.fixture(scope="module")
def train(world: Path) -> VisDialDataset:
    return VisDialDataset(world / "visdial_1.0_train.json", world / "store" / "train")


def _check_items(dataset: VisDialDataset, annotations: Path) -> None:
    content = json.loads(annotations.read_text())["data"]
    assert len(dataset) == len(content["dialogs"])
    for i, dialog in enumerate(content["dialogs"]):
        item = dataset[i]
        questions = [content["questions"][turn["question"]] for turn in dialog["dialog"]]
        hidden = [turn.get("answer") for turn in dialog["dialog"]]
        assert item["image_id"] == dialog["image_id"]
        assert item["questions"] == questions
        assert item["answers"] == [None if row is None else content["answers"][row] for row in hidden]
        assert torch.equal(item["vision"], embed(dialog["image_id"]))
        assert torch.equal(
            item["text"], torch.stack([embed(text) for text in (dialog["caption"], *questions)])
        )
        assert item["vision"].dtype == item["text"].dtype == torch.float32


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_items_are_the_files_dialogues_with_their_embeddings(world: Path, split: str) -> None:
    annotations = world / f"visdial_1.0_{split}.json"
    _check_items(VisDialDataset(annotations, world / "store" / split), annotations)


def test_real_visdial_is_read_alike(shared: Path, tmp_path: Path) -> None:
    annotations = shared / "real" / "visdial" / "visdial_v1.0_val_8dialogs.json"
    store = make_store(annotations, tmp_path / "store")
    dense = shared / "real" / "visdial" / "visdial_v1.0_val_8dialogs_dense.json"
    dataset = VisDialDataset(annotations, store, dense, answer_options=True)
    _check_items(dataset, annotations)
    for dialog, entry in zip(dataset.dialogs, json.loads(dense.read_text()), strict=True):
        relevance = dataset.dense[dialog["image_id"]]
        assert (relevance.round_id, list(relevance.relevance)) == (entry["round_id"], entry["gt_relevance"])
        assert len(dialog["dialog"][relevance.round_id - 1]["answer_options"]) == 100


def test_76_real_dialogues_in_gzip(shared: Path, tmp_path: Path) -> None:
    annotations = shared / "real" / "visdial" / "visdial_1.0_val_76dialogs.json.gz"
    dataset = VisDialDataset(annotations, make_store(annotations, tmp_path / "store", shard=300))
    assert len(dataset) == 76
    batch = collate([dataset[i] for i in range(76)])
    assert batch.text.shape == (76, 11, WIDTH) and batch.turn_mask.all()
    assert all(answer for answers in batch.answers for answer in answers)
    assert "answer_options" not in dataset.dialogs[0]["dialog"][0]


def test_collate_pads_behind_the_last_turn(world: Path) -> None:
    dataset = VisDialDataset(world / "visdial_1.0_test.json", world / "store" / "test")
    items = [dataset[i] for i in range(len(dataset))]
    lengths = [len(item["questions"]) + 1 for item in items]
    assert min(lengths) < max(lengths)
    batch = next(iter(DataLoader(dataset, batch_size=len(dataset), collate_fn=collate)))
    assert batch.turn_mask.dtype == torch.bool
    assert batch.turn_mask.sum(dim=1).tolist() == lengths
    assert batch.turn_mask.shape == batch.text.shape[:2] == (len(items), max(lengths))
    for row, item in enumerate(items):
        assert torch.equal(batch.vision[row], item["vision"])
        assert torch.equal(batch.text[row, : lengths[row]], item["text"])
        assert not batch.text[row, lengths[row] :].any()
        assert batch.questions[row] == item["questions"]
        assert batch.answers[row][-1] is None and None not in batch.answers[row][:-1]


def test_pickled_dataset_reads_the_same(train: VisDialDataset) -> None:
    shuffled = train.shuffled_pictures(3)
    copied = pickle.loads(pickle.dumps(shuffled))
    assert all(torch.equal(copied[i]["vision"], shuffled[i]["vision"]) for i in range(len(train)))


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_pictures_are_each_another_dialogues(train: VisDialDataset, seed: int) -> None:
    shuffled = train.shuffled_pictures(seed)
    pictures = [tuple(shuffled[i]["vision"].tolist()) for i in range(len(train))]
    own = [tuple(train[i]["vision"].tolist()) for i in range(len(train))]
    assert sorted(pictures) == sorted(own)
    assert all(one != other for one, other in zip(pictures, own, strict=True))
    for i in range(len(train)):
        for key in ("image_id", "questions", "answers"):
            assert shuffled[i][key] == train[i][key]
        assert torch.equal(shuffled[i]["text"], train[i]["text"])
    again = train.shuffled_pictures(seed)
    assert all(torch.equal(again[i]["vision"], shuffled[i]["vision"]) for i in range(len(train)))


def test_different_seeds_shuffle_differently(train: VisDialDataset) -> None:
    orders = {
        tuple(train.shuffled_pictures(seed)[i]["vision"][0].item() for i in range(12)) for seed in range(5)
    }
    assert len(orders) == 5


def test_failed_picture_is_left_out_and_named(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    annotations = world / "visdial_1.0_train.json"
    store = make_store(annotations, tmp_path / "store", failed=(7, 22))
    with caplog.at_level(logging.WARNING):
        dataset = VisDialDataset(annotations, store)
    assert "2 dialogues" in caplog.text and "7, 22" in caplog.text
    assert len(dataset) == len(dataset.dialogs) == 10
    ids = [dataset[i]["image_id"] for i in range(10)]
    assert ids == dataset.image_ids and not {7, 22} & set(ids)
    for i, image_id in enumerate(ids):
        assert torch.equal(dataset[i]["vision"], embed(image_id))
        assert len(dataset[i]["text"]) == 11


def test_no_readable_picture_at_all(world: Path, tmp_path: Path) -> None:
    annotations = world / "visdial_1.0_val.json"
    ids = tuple(dialog["image_id"] for dialog in read_visdial(annotations).dialogs)
    with pytest.raises(InputError, match=r"none of the pictures of .*failed\.jsonl"):
        VisDialDataset(annotations, make_store(annotations, tmp_path / "store", failed=ids))


def test_store_of_other_dialogues_is_refused(world: Path, tmp_path: Path) -> None:
    # Same image ids and sizes, other pictures and words: nothing but the check would notice.
    other = write_world(tmp_path / "other", train=12, val=6, test=9, seed=1)
    message = r"store .*train was made of other dialogues \(of visdial_1.0_train.json\) than .*other.*_train"
    with pytest.raises(InputError, match=message):
        VisDialDataset(other / "visdial_1.0_train.json", world / "store" / "train")


def test_missing_files_are_named(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json"):
        VisDialDataset(tmp_path / "absent.json", world / "store" / "train")
    with pytest.raises(InputError, match="there is no embedding store in"):
        VisDialDataset(world / "visdial_1.0_train.json", tmp_path)


@pytest.mark.parametrize("content", ["[{}]", "{", '[{"image_id": 1, "round_id": 2}]', "[3]", "3"])
def test_wrong_dense_relevance_is_named(world: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "dense.json").write_text(content)
    with pytest.raises(InputError, match=r"dense\.json"):
        VisDialDataset(world / "visdial_1.0_val.json", world / "store" / "val", tmp_path / "dense.json")


def _config(world: Path, **changes: Any) -> VisDialConfig:
    keys = {
        "type": "mini",
        "store": str(world / "store"),
        "annotations": {
            split: str(world / f"visdial_1.0_{split}.json") for split in ("train", "val", "test")
        },
        "dense": {"val": str(world / "visdial_1.0_val_dense_annotations.json")},
    }
    return VisDialConfig(**{**keys, **changes})


def test_datasets_of_a_configuration(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = build_datasets(_config(world))
    assert {split: len(dataset) for split, dataset in datasets.items()} == {"train": 12, "val": 6, "test": 9}
    assert len(datasets["val"].dense) == 6 and not datasets["train"].dense
    assert list(build_datasets(_config(world), ["val"])) == ["val"]
    monkeypatch.chdir(world)
    relative = _config(world, store="store", annotations={"train": "visdial_1.0_train.json"}, dense={})
    assert len(build_datasets(relative)["train"]) == 12


def test_unknown_split_is_refused(world: Path) -> None:
    with pytest.raises(InputError, match="no split 'dev', it has: train, val, test"):
        build_datasets(_config(world), ["dev"])
