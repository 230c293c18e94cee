"""The mini world's files: VisDial's format to the letter, same seed same bytes, all or nothing."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from extraction.visdial import find_images, read_visdial
from malmm.data import mini
from malmm.data.mini import ANSWERS, make_world_item, write_world
from malmm.errors import InputError

SIZES = {"train": 12, "val": 6, "test": 20}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("mini") / "world", **SIZES)


def _load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _schema(value: Any) -> Any:
    """Keys and types at every level; a list is the set of what it holds."""
    if isinstance(value, dict):
        return tuple(sorted((key, _schema(part)) for key, part in value.items()))
    if isinstance(value, list):
        return "list", frozenset(_schema(part) for part in value)
    return type(value).__name__


def _bytes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_format_is_the_real_files_format(world: Path, shared: Path) -> None:
    real = shared / "real" / "visdial"
    for split in ("train", "val"):
        made, original = (
            _load(world / f"visdial_1.0_{split}.json"),
            _load(real / "visdial_v1.0_val_8dialogs.json"),
        )
        assert _schema(made) == _schema(original)
        assert made["version"] == original["version"]
    assert made["split"] == original["split"]
    dense, original = (
        _load(path)
        for path in (
            world / "visdial_1.0_val_dense_annotations.json",
            real / "visdial_v1.0_val_8dialogs_dense.json",
        )
    )
    assert _schema(dense) == _schema(original)


def test_rounds_and_options(world: Path) -> None:
    for split in ("train", "val"):
        data = _load(world / f"visdial_1.0_{split}.json")["data"]
        assert len(set(data["questions"])) == len(data["questions"])
        assert data["answers"] == list(dict.fromkeys(ANSWERS)) and len(ANSWERS) > 100
        assert len(data["dialogs"]) == SIZES[split]
        for dialog in data["dialogs"]:
            assert len(dialog["dialog"]) == 10
            for turn in dialog["dialog"]:
                assert len(turn["answer_options"]) == len(set(turn["answer_options"])) == 100
                assert turn["answer_options"][turn["gt_index"]] == turn["answer"]


def test_options_of_a_round_hold_every_answer_of_its_kind(world: Path) -> None:
    data = _load(world / "visdial_1.0_train.json")["data"]
    groups = ({"yes", "no"}, set(mini.COLORS), set(mini.SHAPES), set(mini.PLACES), {"0", "1", "2", "3", "4"})
    for dialog in data["dialogs"]:
        for turn in dialog["dialog"]:
            options = {data["answers"][row] for row in turn["answer_options"]}
            for group in groups:
                assert data["answers"][turn["answer"]] not in group or group <= options


def test_last_round_of_test_is_hidden(world: Path) -> None:
    dialogs = _load(world / "visdial_1.0_test.json")["data"]["dialogs"]
    assert len({len(dialog["dialog"]) for dialog in dialogs}) > 4
    for dialog in dialogs:
        *earlier, last = dialog["dialog"]
        assert all(turn.keys() == {"question", "answer"} for turn in earlier)
        assert last.keys() == {"question", "answer_options"}
        assert len(last["answer_options"]) == 100
    assert not (world / "visdial_1.0_test_dense_annotations.json").exists()


@pytest.mark.parametrize(("split", "key"), [("train", "relevance"), ("val", "gt_relevance")])
def test_dense_relevance_grades_the_options(world: Path, split: str, key: str) -> None:
    data = _load(world / f"visdial_1.0_{split}.json")["data"]
    dense = _load(world / f"visdial_1.0_{split}_dense_annotations.json")
    assert [entry["image_id"] for entry in dense] == [dialog["image_id"] for dialog in data["dialogs"]]
    for entry, dialog in zip(dense, data["dialogs"], strict=True):
        assert entry.keys() == {"image_id", "round_id", key} and 1 <= entry["round_id"] <= 10
        turn = dialog["dialog"][entry["round_id"] - 1]
        assert [i for i, value in enumerate(entry[key]) if value == 1] == [turn["gt_index"]]
        assert len(entry[key]) == 100 and all(0 <= value <= 1 for value in entry[key])


def test_relevance_counts_shared_words_of_true_answers() -> None:
    red_circle = mini.SceneObject(shape=0, color=0, size=0, place=4, x=64, y=64)
    scene = mini.Scene((red_circle,), (240, 240, 240))
    round_ = mini.Round("what is in the middle", "red circle", "content", referent=0)
    graded = {"red circle": 1, "small red circle": 0.6667, "red": 0.5, "circle": 0.5}
    wrong = dict.fromkeys(("large red circle", "blue circle", "blue", "red and blue", "nothing", "yes"), 0)
    for option, value in {**graded, **wrong}.items():
        assert mini.relevance(scene, round_, option) == value, option


def test_pictures_are_found_under_their_ids_and_ids_differ_between_splits(world: Path) -> None:
    folders = {
        "train": ["train2014", "val2014"],
        "val": ["VisualDialog_val2018"],
        "test": ["VisualDialog_test2018"],
    }
    seen: set[int] = set()
    for split, names in folders.items():
        annotations = read_visdial(world / f"visdial_1.0_{split}.json")
        ids = [annotations.image_id(i) for i in range(len(annotations))]
        assert sorted(find_images([world / name for name in names])) == sorted(ids)
        assert not seen & set(ids)
        seen |= set(ids)
    assert all(any((world / name).iterdir()) for name in folders["train"])
    assert (world / "VisualDialog_val2018" / "VisualDialog_val2018_000000000002.jpg").is_file()


def test_sidecar_tells_what_the_dialogues_are_about(world: Path) -> None:
    for split in SIZES:
        annotations = read_visdial(world / f"visdial_1.0_{split}.json")
        sidecar = _load(world / f"mini_{split}_rounds.json")
        for i, entry in enumerate(sidecar):
            _, scene, dialogue = make_world_item(split, i)
            assert entry["image_id"] == annotations.image_id(i)
            assert [thing["place"] for thing in entry["objects"]] == [
                mini.PLACES[t.place] for t in scene.objects
            ]
            assert [round_["question"] for round_ in entry["rounds"]] == annotations.dialog_questions(i)
            answers = annotations.dialog_answers(i)
            shown = len(answers) - (split == "test")
            assert [round_["answer"] for round_ in entry["rounds"]][:shown] == answers[:shown]
            assert entry["caption_object"] == dialogue.caption_object


def test_same_seed_same_bytes_and_another_seed_another_world(world: Path, tmp_path: Path) -> None:
    assert _bytes(write_world(tmp_path / "again", **SIZES)) == _bytes(world)
    other = _bytes(write_world(tmp_path / "other", **SIZES, seed=1))
    assert other.keys() == _bytes(world).keys()
    assert not set(other.values()) & set(_bytes(world).values())


def test_size_of_a_split_changes_nothing_else(world: Path, tmp_path: Path) -> None:
    larger = write_world(tmp_path / "larger", train=14, val=6, test=20)
    ours, theirs = _bytes(world), _bytes(larger)
    for name, digest in ours.items():
        if name.startswith(("visdial_1.0_train", "mini_train", "mini_world")):
            continue
        assert theirs[name] == digest, name
    first = _load(larger / "visdial_1.0_train.json")["data"]["dialogs"][:12]
    assert first == _load(world / "visdial_1.0_train.json")["data"]["dialogs"]


def test_world_is_left_as_it_is_and_another_one_refused(world: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    write_world(world, **SIZES)
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == before
    with pytest.raises(InputError, match=r"holds another mini world \(.*val 6.*asked for: .*val 7"):
        write_world(world, **{**SIZES, "val": 7})
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else than a mini world"):
        write_world(tmp_path, **SIZES)
    with pytest.raises(InputError, match="--val is 0"):
        write_world(tmp_path / "none", val=0)


def test_interrupted_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mini, "_hide_last_answer", stop)
    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path / "world", **SIZES)
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        write_world(tmp_path / "file" / "world", **SIZES)


def test_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "malmm", "data", "mini", "--out", str(tmp_path / "a" / "world")]
    first = subprocess.run(
        [*command, "--train", "3", "--val", "2", "--test", "2"], capture_output=True, text=True
    )
    assert first.returncode == 0, first.stderr
    assert len(read_visdial(tmp_path / "a" / "world" / "visdial_1.0_train.json")) == 3
    other = subprocess.run([*command, "--train", "4"], capture_output=True, text=True)
    assert other.returncode == 2
    assert other.stderr.startswith("error: ") and "another mini world" in other.stderr
    assert "Traceback" not in other.stderr
