import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extraction.errors import InputError
from extraction.visdial import VisDial, find_images, plan, read_visdial

REAL = {"visdial_1.0_val_76dialogs.json.gz": 76, "visdial_v1.0_val_8dialogs.json": 8}


@pytest.mark.parametrize(("name", "count"), REAL.items())
def test_real_dialogs_read_as_the_file_has_them(shared: Path, name: str, count: int) -> None:
    path = shared / "real/visdial" / name
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        raw = json.load(file)["data"]
    annotations = read_visdial(path)
    assert annotations.split == "val2018"
    assert len(annotations) == count
    for i, dialog in enumerate(raw["dialogs"]):
        assert annotations.image_id(i) == dialog["image_id"]
        assert annotations.caption(i) == dialog["caption"]
        turns = dialog["dialog"]
        assert annotations.dialog_questions(i) == [raw["questions"][turn["question"]] for turn in turns]
        assert annotations.dialog_answers(i) == [raw["answers"][turn["answer"]] for turn in turns]
        read = annotations.dialogs[i]["dialog"]
        assert [list(turn["answer_options"]) for turn in read] == [turn["answer_options"] for turn in turns]


def test_answer_options_can_be_left_out(shared: Path) -> None:
    annotations = read_visdial(shared / "real/visdial/visdial_v1.0_val_8dialogs.json", answer_options=False)
    assert all("answer_options" not in turn for dialog in annotations.dialogs for turn in dialog["dialog"])
    assert annotations.dialogs[0]["dialog"][0]["gt_index"] >= 0


GOOD = {
    "version": "1.0",
    "split": "test2018",
    "data": {
        "questions": ["is it red", "why"],
        "answers": ["yes"],
        "dialogs": [
            {"image_id": 7, "caption": "a bus", "dialog": [{"question": 1, "answer": 0}, {"question": 0}]},
            {"image_id": 3, "caption": "why", "dialog": [{"question": 0}]},
        ],
    },
}


def test_the_test_split_hides_the_last_answer(tmp_path: Path) -> None:
    path = tmp_path / "visdial_1.0_test.json"
    path.write_text(json.dumps(GOOD))
    annotations = read_visdial(path)
    assert annotations.dialog_answers(0) == ["yes", None]
    assert annotations.dialog_answers(1) == [None]
    wanted = plan(annotations, path)
    assert wanted.image_ids == [3, 7]
    assert wanted.texts == ["why", "a bus", "is it red"]
    assert wanted.dialog_ids.tolist() == [7, 3]
    assert wanted.dialog_texts.tolist() == [[1, 0, 2], [0, 2, -1]]


def _changed(place: list[Any], value: Any) -> dict[str, Any]:
    content = copy.deepcopy(GOOD)
    target: Any = content
    for key in place[:-1]:
        target = target[key]
    if value is None:
        del target[place[-1]]
    else:
        target[place[-1]] = value
    return content


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (["data"], None, "data"),
        (["data", "answers"], None, "data.answers"),
        (["data", "questions", 1], 5, "data.questions"),
        (["data", "dialogs", 1, "image_id"], "3", "data.dialogs[1]"),
        (["data", "dialogs", 0, "caption"], None, "data.dialogs[0]"),
        (["data", "dialogs", 0, "dialog", 1, "question"], 2, "data.dialogs[0].dialog[1].question is 2"),
        (["data", "dialogs", 0, "dialog", 1, "question"], None, "data.dialogs[0].dialog[1]"),
        (["data", "dialogs", 0, "dialog", 0, "answer"], -1, "data.dialogs[0].dialog[0].answer is -1"),
        (["data", "dialogs", 0, "dialog", 0, "answer_options"], "many", "answer_options"),
    ],
)
def test_another_format_is_refused_with_the_place(
    tmp_path: Path, place: list[Any], value: Any, named: str
) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(_changed(place, value)))
    with pytest.raises(InputError) as caught:
        read_visdial(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    whole = json.dumps(GOOD).encode()
    cases = {
        "cut.json": whole[:-20],
        "cut.json.gz": gzip.compress(whole)[:-20],
        "plain.json.gz": whole,
        "binary.json": b"\xff\xfe\x00\x81",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_visdial(tmp_path / name)
    with pytest.raises(InputError, match=r"absent\.json"):
        read_visdial(tmp_path / "absent.json")


@st.composite
def annotations(draw: st.DrawFn) -> VisDial:
    texts = st.text(max_size=12)
    questions = draw(st.lists(texts, min_size=1, max_size=6))
    rows = st.integers(0, len(questions) - 1)
    dialogs = [
        {
            "image_id": image_id,
            "caption": draw(texts),
            "dialog": [{"question": q} for q in draw(st.lists(rows))],
        }
        for image_id in draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=5, unique=True))
    ]
    return VisDial("train", questions, [], dialogs)


@given(annotations())
def test_a_plan_gives_every_dialog_its_texts_back(annotations: VisDial) -> None:
    wanted = plan(annotations, "file")
    assert len(set(wanted.texts)) == len(wanted.texts)
    assert list(map(len, wanted.texts)) == sorted(map(len, wanted.texts))
    for i, rows in enumerate(wanted.dialog_texts.tolist()):
        said = annotations.texts(i)
        assert [wanted.texts[row] for row in rows[: len(said)]] == said
        assert set(rows[len(said) :]) <= {-1}


@given(annotations(), st.data())
def test_a_digest_tells_two_annotations_apart(annotations: VisDial, data: st.DataObject) -> None:
    other = copy.deepcopy(annotations)
    i = data.draw(st.integers(0, len(annotations) - 1))
    other.dialogs[i]["caption"] += "!"
    assert plan(other, "other").digest != plan(annotations, "file").digest
    # The same content in another file, with answers that are not encoded, is the same.
    same = VisDial("val", [*annotations.questions, "unused"], ["yes"], annotations.dialogs)
    assert plan(same, "same").digest == plan(annotations, "file").digest


def test_two_dialogs_about_one_picture_are_refused() -> None:
    dialog = {"image_id": 12, "caption": "a bus", "dialog": []}
    with pytest.raises(InputError, match="image 12"):
        plan(VisDial("train", [], [], [dialog, dialog]), "file")
    with pytest.raises(InputError, match="no dialogs"):
        plan(VisDial("train", [], [], []), "file")


def test_pictures_are_found_by_the_digits_that_end_the_name(tmp_path: Path) -> None:
    names = [
        "train2014/COCO_train2014_000000000009.jpg",
        "val/deep/VisualDialog_val2018_000000000010.JPG",
        "val/000000039769.png",
        "val/notes_11.txt",
        "val/no_digits.jpg",
        "val/COCO_val2014_000000000009.jpg",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path / "train2014", tmp_path / "val"])
    assert {k: str(path.relative_to(tmp_path)) for k, path in found.items()} == {
        9: names[0],
        10: names[1],
        39769: names[2],
    }
    with pytest.raises(InputError, match=r"there is no image folder .*absent"):
        find_images([tmp_path / "absent"])
