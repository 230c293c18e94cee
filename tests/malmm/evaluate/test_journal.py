import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmm.evaluate.journal import Journal

BATCHES = [["yes", "no"]], [["1\u2028", 'a "red" one\n']], [["é"], []]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "predictions.partial.jsonl"


def write(path: Path, key: str = "key") -> None:
    journal = Journal(path, key)
    for number, answers in enumerate(BATCHES):
        journal.add("model", number, answers)


def test_answers_come_back_as_they_went_in(path: Path) -> None:
    write(path)
    journal = Journal(path, "key")
    assert [journal.get("model", i) for i in range(4)] == [*BATCHES, None]
    assert journal.get("shuffled", 0) is None


def test_another_key_begins_anew(path: Path) -> None:
    write(path)
    assert len(Journal(path, "other")) == 0
    assert len(Journal(path, "key")) == 0


@settings(max_examples=30)
@given(data=st.data())
def test_cut_anywhere_gives_the_whole_lines_and_goes_on(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "predictions.partial.jsonl"
    write(path)
    content = path.read_bytes()
    length = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:length])
    journal = Journal(path, "key")
    whole = max(content[:length].count(b"\n") - 1, 0)  # the first line is the key
    assert len(journal) == whole
    assert [journal.get("model", i) for i in range(whole)] == list(BATCHES[:whole])
    for number in range(whole, len(BATCHES)):
        journal.add("model", number, BATCHES[number])
    assert path.read_bytes() == content


def test_lines_are_on_disk_at_once_and_removed_at_the_end(path: Path) -> None:
    journal = Journal(path, "key")
    journal.add("model", 0, [["yes"]])
    assert json.loads(path.read_text().splitlines()[1])["answers"] == [["yes"]]
    journal.remove()
    assert not path.exists()
