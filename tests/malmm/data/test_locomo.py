"""LoCoMo's format, its irregularities included, on a file made here: the published one is not at hand."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from malmm.data.locomo import read_locomo
from malmm.errors import InputError


def turn(speaker: str, dia_id: str, text: str, **more: Any) -> dict[str, Any]:
    return {"speaker": speaker, "dia_id": dia_id, "text": text, **more}


def sample() -> dict[str, Any]:
    conversation = {
        "speaker_a": "Ann",
        "speaker_b": "Bob",
        "session_2_date_time": "9:05 am on 1 June, 2023",
        "session_2": [turn("Bob", "D2:1", "I sold the boat."), turn("Ann", "D2:2", "Oh no!")],
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            turn("Ann", "D1:1", "Hello Bob!"),
            turn("Bob", "D1:2", "My boat.", img_url=["x"], blip_caption="a photo of a boat", query="boat"),
        ],
        "session_3_date_time": "1:00 pm on 2 June, 2023",  # of a session that is not there
        "session_10_date_time": "12:30 am on 3 June, 2023",
        "session_10": [turn("Ann", "D10:1", "Good night.")],
    }
    qa = [
        {"question": "When was the boat sold?", "answer": 2023, "evidence": ["D1:2; D2:1"], "category": 2},
        {"question": "What has Bob?", "answer": "a boat", "evidence": ["D:1:02", "D1:2"], "category": 4},
        {"question": "Who slept?", "answer": "Ann", "evidence": ["D9:9", "D10:1"], "category": 1},
        {"question": "Why?", "answer": "likely no", "evidence": [], "category": 3},
        {"question": "What did Ann sell?", "adversarial_answer": "boat", "evidence": ["D2:1"], "category": 5},
        {"question": "And?", "answer": "x", "evidence": ["D"], "category": 4},
    ]
    return {"sample_id": "conv-1", "conversation": conversation, "qa": qa, "event_summary": {}}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_sessions_are_in_order_with_their_times(tmp_path) -> None:
    (user,) = read_locomo(write(tmp_path / "f.json", [sample()])).users
    assert [item.id for item in user.items] == ["D1:1", "D1:2", "D2:1", "D2:2", "D10:1"]
    assert [item.conversation for item in user.items][-1] == "session_10"
    assert [item.role for item in user.items] == ["user", "assistant", "assistant", "user", "user"]
    assert user.items[1].text == "Bob: My boat. [shares a photo of a boat]"
    utc = datetime.UTC
    assert user.items[0].time == datetime.datetime(2023, 5, 8, 13, 56, tzinfo=utc).timestamp()
    assert user.items[1].time == user.items[0].time + 60
    assert user.items[-1].time == datetime.datetime(2023, 6, 3, 0, 30, tzinfo=utc).timestamp()


def test_questions_follow_the_last_session_with_their_evidence(tmp_path) -> None:
    locomo = read_locomo(write(tmp_path / "f.json", [sample()]))
    questions = locomo.users[0].questions
    assert [q.evidence for q in questions] == [("D1:2", "D2:1"), ("D1:2",), ("D10:1",), (), ("D2:1",), ()]
    kinds = ["temporal", "single-hop", "multi-hop", "open-domain", "adversarial", "single-hop"]
    assert [q.kind for q in questions] == kinds
    assert [q.answer for q in questions] == ["2023", "a boat", "Ann", "likely no", None, "x"]
    assert all(q.time > locomo.users[0].items[-1].time for q in questions)
    assert (questions[0].conversations, questions[0].records) == (3, 4)  # from the farthest evidence
    assert locomo.dangling == ["conv-1 D9:9"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "no list of samples"),
        ([{"sample_id": "x", "qa": []}], "sample 0 is not in LoCoMo's format"),
        ([{**sample(), "qa": [{"question": "?", "category": 1}]}], "'answer'"),
        ([{**sample(), "conversation": {"session_1": [turn("A", "D1:1", "x")]}}], "session_1_date_time"),
    ],
)
def test_another_format_is_refused_in_one_sentence(tmp_path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_locomo(write(tmp_path / "f.json", content))


def test_a_file_that_is_absent_or_no_json(tmp_path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_locomo(tmp_path / "absent.json")
    (tmp_path / "f.json").write_text("[")
    with pytest.raises(InputError, match="not valid JSON"):
        read_locomo(tmp_path / "f.json")
