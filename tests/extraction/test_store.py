import itertools
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from extraction.errors import InputError
from extraction.store import EmbeddingStore
from extraction.store_writer import StoreWriter

WIDTH = 5


def header(**changed: Any) -> dict[str, Any]:
    kind = {"width": WIDTH, "dtype": "float16"}
    return {
        "split": "train",
        "encoder": {"name": "imagebind", "weights_sha256": "a" * 64, "config": {"vision_num_blocks": 2}},
        "annotations": {"file": "a.json", "sha256": "b" * 64, "dialogs": 3},
        "shard_size": 2,
        "modalities": {"vision": dict(kind), "text": dict(kind)},
        **changed,
    }


def write_store(folder: Path, vision: list[Tensor], text: list[Tensor], dialogs: dict[str, Tensor]) -> None:
    """Write a store of these shards, each [n, WIDTH]."""
    present = dialogs["ids"][dialogs["vision"].argsort(stable=True)][(dialogs["vision"] < 0).sum() :]
    with StoreWriter(folder, header()) as writer:
        for k, (shard, ids) in enumerate(zip(vision, present.split([len(s) for s in vision]), strict=True)):
            writer.write("vision", k, ids=ids, embeddings=shard)
        for k, shard in enumerate(text):
            writer.write("text", k, ids=torch.arange(len(shard)), embeddings=shard)
        writer.finish(dialogs, {"vision": len(vision), "text": len(text)}, [])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three dialogs of two texts; picture 8 failed."""
    dialogs = {
        "ids": torch.tensor([7, 8, 9]),
        "vision": torch.tensor([0, -1, 1]),
        "text": torch.tensor([[0, 1], [2, 0], [1, -1]]),
    }
    torch.manual_seed(0)
    shards = [torch.randn(n, WIDTH).half() for n in (2, 2, 1)]
    write_store(tmp_path / "store", shards[:1], shards[1:], dialogs)
    return tmp_path / "store"


@st.composite
def stores(draw: st.DrawFn) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
    sizes = st.lists(st.integers(0, 4), min_size=1, max_size=4)
    numbers = st.integers(0, 2**31)
    generator = torch.Generator().manual_seed(draw(numbers))
    vision, text = (
        [torch.randn(n, WIDTH, generator=generator).half() for n in draw(sizes)] for _ in range(2)
    )
    pictures, texts = sum(map(len, vision)), sum(map(len, text))
    failed = draw(st.integers(0, 3))
    count = pictures + failed
    ids = torch.tensor(draw(st.permutations(range(100, 100 + count))), dtype=torch.int64)
    rows = torch.tensor(draw(st.permutations([*range(pictures), *[-1] * failed])), dtype=torch.int64)
    turns = draw(st.integers(1, 4)) if texts else 0
    dialog_texts = torch.full((count, turns), -1)
    for i in range(count if texts else 0):
        said = draw(st.lists(st.integers(0, texts - 1), min_size=1, max_size=turns))
        dialog_texts[i, : len(said)] = torch.tensor(said)
    return vision, text, {"ids": ids, "vision": rows, "text": dialog_texts}


@given(stores())
def test_what_is_written_is_read(content: tuple[list[Tensor], list[Tensor], dict[str, Tensor]]) -> None:
    vision, text, dialogs = content
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder) / "store", vision, text, dialogs)
        store = EmbeddingStore.open(Path(folder) / "store", verify=True)
        assert store.image_ids == dialogs["ids"].tolist()
        assert len(store) == len(dialogs["ids"])
        assert store.width == WIDTH
        rows = dialogs["vision"].tolist()
        assert store.failed_ids == [i for i, row in zip(store.image_ids, rows, strict=True) if row < 0]
        for image_id, row, texts in zip(store.image_ids, rows, dialogs["text"].tolist(), strict=True):
            said = [row for row in texts if row >= 0]
            if said:
                assert store.text(image_id).dtype == torch.float32
                assert torch.equal(store.text(image_id), torch.cat(text)[said].float())
            if row < 0:
                with pytest.raises(InputError, match=f"picture {image_id} has no embedding"):
                    store.vision(image_id)
            else:
                assert store.vision(image_id).dtype == torch.float32
                assert torch.equal(store.vision(image_id), torch.cat(vision)[row].float())


def test_shards_are_plain_torch_files(store: Path) -> None:
    shard = torch.load(str(store / "vision-00000.pt"), weights_only=True, mmap=True)
    assert shard["ids"].tolist() == [7, 9]
    assert shard["ids"].dtype == torch.int64
    assert shard["embeddings"].dtype == torch.float16
    # A view would be saved with all that it is a view of.
    wide = torch.zeros(1000, WIDTH).half()
    with StoreWriter(store.parent / "other", header()) as writer:
        writer.write("vision", 0, ids=torch.arange(2), embeddings=wide[:2])
    assert (store.parent / "other/vision-00000.pt").stat().st_size < 4000


def test_equal_tensors_give_equal_bytes_under_any_name(tmp_path: Path) -> None:
    embeddings = torch.randn(3, WIDTH).half()
    with StoreWriter(tmp_path / "one", header()) as one, StoreWriter(tmp_path / "two", header()) as two:
        one.write("vision", 0, ids=torch.arange(3), embeddings=embeddings)
        two.write("text", 17, ids=torch.arange(3), embeddings=embeddings.clone())
    assert (tmp_path / "one/vision-00000.pt").read_bytes() == (tmp_path / "two/text-00017.pt").read_bytes()


def test_the_manifest_tells_what_made_the_store(store: Path) -> None:
    manifest = EmbeddingStore.open(store).manifest
    assert manifest["format_version"] == 1
    assert manifest["encoder"] == header()["encoder"]
    vision, text = manifest["modalities"]["vision"], manifest["modalities"]["text"]
    assert (vision["width"], vision["dtype"], vision["rows"]) == (WIDTH, "float16", 2)
    assert [shard["rows"] for shard in text["shards"]] == [2, 1]
    assert [shard["file"] for shard in text["shards"]] == ["text-00000.pt", "text-00001.pt"]


@pytest.mark.parametrize("name", ["vision-00000.pt", "text-00001.pt", "dialogs-00000.pt"])
def test_a_truncated_or_missing_shard_is_named(store: Path, name: str) -> None:
    whole = (store / name).read_bytes()
    (store / name).write_bytes(whole[:-100])
    with pytest.raises(InputError, match=rf"{name} is damaged .*delete it and run the same extraction again"):
        EmbeddingStore.open(store)
    (store / name).unlink()
    with pytest.raises(InputError, match=rf"{name} is missing: run the same extraction again"):
        EmbeddingStore.open(store)


def test_a_shard_of_the_right_size_but_other_bytes_is_found_by_its_sha256(store: Path) -> None:
    path = store / "text-00000.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"text-00000\.pt is damaged \(its sha256"):
        EmbeddingStore.open(store, verify=True)
    path.write_bytes(bytes(len(content)))
    with pytest.raises(InputError, match=r"text-00000\.pt is damaged or cut short"):
        EmbeddingStore.open(store).text(7)


def test_no_truncation_of_a_shard_goes_unseen(store: Path) -> None:
    path = store / "vision-00000.pt"
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"vision-00000\.pt"):
            EmbeddingStore.open(store)
        with StoreWriter(store.parent / "unfinished", header()) as writer:
            writer.path("vision", 0).write_bytes(whole[:length])
            with pytest.raises(InputError, match=r"vision-00000\.pt is damaged .*delete it"):
                writer.read_ids("vision", 0)
            writer.path("vision", 0).unlink()


def test_other_folders_are_no_stores(store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no embedding store"):
        EmbeddingStore.open(tmp_path / "absent")
    path = store / "manifest.json"
    manifest = json.loads(path.read_text())
    for content, message in (
        ("{", "cannot be read"),
        ("[]", "is not the manifest of an embedding store"),
        (json.dumps({**manifest, "format_version": 2}), "has store format 2, this version reads 1"),
        (json.dumps({**manifest, "complete": False}), "is unfinished"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            EmbeddingStore.open(store)


def test_an_unknown_picture_is_refused(store: Path) -> None:
    with pytest.raises(InputError, match=r"knows no picture 6.*made from a\.json"):
        EmbeddingStore.open(store).vision(6)


def test_a_worker_process_maps_the_files_itself(store: Path) -> None:
    opened = EmbeddingStore.open(store)
    again = pickle.loads(pickle.dumps(opened))
    for image_id, kind in itertools.product((7, 9), ("vision", "text")):
        assert torch.equal(getattr(again, kind)(image_id), getattr(opened, kind)(image_id))
    assert len(pickle.dumps(opened)) < 5000
