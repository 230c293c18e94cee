"""Which remembered picture comes back, in a space that is known."""

from pathlib import Path

import pytest
import torch

from malmm.chat.picture_recall import choose_picture
from malmm.memory.recall import Recall
from malmm.memory.settings import MemorySettings, RecallSettings
from malmm.memory.sqlite import SQLiteStore
from tests.malmm.memory.test_recall import WORDS, WordEmbedder


@pytest.fixture
def recall(tmp_path: Path):
    """Two pictures, each with the words of the other as its caption."""
    with SQLiteStore(tmp_path / "memory.db", len(WORDS) + 1, "words") as store:
        recall = Recall(store, WordEmbedder(), MemorySettings())
        for name, caption in (("red_circle", "the blue square"), ("blue_square", "the red circle")):
            (tmp_path / f"{name}.png").write_bytes(name.encode())
            recall.remember("me", caption, modality="vision", media=tmp_path / f"{name}.png")
        yield recall


def chosen(recall: Recall, question: str, present: str = "") -> str | None:
    before = torch.from_numpy(recall.embedder.embed_text(present))[None] if present else None
    found = choose_picture(recall, "me", question, recall.embedder.embed_text(question), before)
    return None if found is None or found.record.media is None else Path(found.record.media.path).stem


def test_a_picture_is_chosen_by_what_it_shows_whatever_its_caption_says(recall: Recall) -> None:
    assert chosen(recall, "where is the blue square?") == "blue_square"
    assert chosen(recall, "where is the red circle?") == "red_circle"


def test_where_nothing_is_shown_a_picture_comes_back_however_little_it_is_like_the_question(
    recall: Recall,
) -> None:
    recall.settings = MemorySettings(recall=RecallSettings(known_relevance_across=1.0))
    assert recall.search("is the piano quartz?", "me") == []
    assert chosen(recall, "is the piano quartz?") is not None


def test_a_picture_takes_the_place_of_the_present_one_by_its_lead(recall: Recall) -> None:
    """Cosines to `red circle blue` are 0.83 and 0.46."""
    assert chosen(recall, "red circle blue", "blue square") == "red_circle"
    assert chosen(recall, "red circle blue", "red circle") is None
    recall.settings = MemorySettings(recall=RecallSettings(picture_margin=0.4))
    assert chosen(recall, "red circle blue", "blue square") is None
