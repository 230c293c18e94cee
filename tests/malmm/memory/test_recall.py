"""Remembering and recalling over every kind of store, with an embedder whose space is known."""

from pathlib import Path

import numpy as np
import pytest

from malmm.errors import InputError
from malmm.memory.recall import Recall
from malmm.memory.record import Draft, Filters, Vector
from malmm.memory.settings import MemorySettings, RecallSettings, ReflectionSettings, ScoringSettings
from tests.malmm.memory.conftest import OpenMemory

WORDS = ["dog", "cat", "rex", "berlin", "paris", "red", "blue", "circle", "square", "tea", "coffee", "piano"]
NOW = 1_700_000_000.0
DAY = 86400.0


class WordEmbedder:
    """One axis a word and one that all share; a file is embedded by its name."""

    def embed_text(self, text: str) -> Vector:
        vector = np.full(len(WORDS) + 1, 1e-3, np.float32)
        vector[-1] = 0.5
        for word in text.lower().replace("?", "").split():
            if word in WORDS:
                vector[WORDS.index(word)] += 1
        return vector / np.linalg.norm(vector)

    def embed_image(self, picture: object) -> Vector:
        return self.embed_text(Path(str(picture)).stem.replace("_", " "))

    embed_audio = embed_video = embed_image


@pytest.fixture
def recall(open_memory: OpenMemory) -> Recall:
    return Recall(open_memory(width=len(WORDS) + 1), WordEmbedder(), MemorySettings())


def texts(found: list) -> list[str]:
    return [item.record.text for item in found]


def test_what_was_told_is_found_by_meaning_and_words(recall: Recall) -> None:
    recall.remember("me", "the dog is called rex", now=NOW - 3 * DAY)
    recall.remember("me", "i moved to berlin", now=NOW - 2 * DAY)
    recall.remember("you", "the dog is called bello", now=NOW - DAY)
    found = recall.search("what is the dog called?", "me", as_of=NOW, explain=True)
    assert texts(found) == ["the dog is called rex", "i moved to berlin"]
    assert found[0].rank == 1
    assert found[0].text_score is not None and found[1].text_score is None
    explanation = found[0].explanation
    assert explanation is not None and explanation.ranks == {"embedding": 1, "text": 1}


def test_as_of_sees_nothing_later_and_touches_nothing(recall: Recall) -> None:
    old = recall.remember("me", "i live in paris", now=NOW - 10 * DAY)
    recall.remember("me", "i live in berlin", now=NOW)
    assert texts(recall.search("where do i live", "me", as_of=NOW)) == ["i live in paris"]
    assert recall.store.get("me", [old.id])[0].access_count == 0


def test_a_search_counts_an_access_of_what_it_found_and_of_nothing_else(recall: Recall) -> None:
    dog, tea = (recall.remember("me", text, now=NOW) for text in ("the dog rex", "green tea"))
    recall.search("the dog", "me", k=1)
    recall.search("the dog", "me", k=1, touch=False)
    counts = [record.access_count for record in recall.store.get("me", [dog.id, tea.id])]
    assert counts == [1, 0]


def test_excluded_records_and_filters(recall: Recall) -> None:
    asked = recall.remember("me", "what is the dog called", conversation="b", now=NOW)
    recall.remember("me", "the dog is called rex", conversation="a", now=NOW)
    assert texts(recall.search("the dog", "me", exclude=[asked.id])) == ["the dog is called rex"]
    assert texts(recall.search("the dog", "me", filters=Filters(conversation="b"))) == [asked.text]


def test_pictures_by_content(recall: Recall, tmp_path: Path) -> None:
    for name in ("red_circle", "blue_square"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
        recall.remember("me", "a picture", modality="vision", media=tmp_path / f"{name}.png", now=NOW)
    found = recall.search(tmp_path / "red_circle.png", "me", k=1)
    assert found[0].record.media is not None and found[0].record.media.path.endswith("red_circle.png")
    found = recall.search("the blue square", "me", k=1)
    assert found[0].record.media is not None and found[0].record.media.path.endswith("blue_square.png")


def test_a_budget_merges_and_returns_what_the_record_became(recall: Recall) -> None:
    recall.settings = MemorySettings(budget=2)
    first = recall.remember("me", "the dog rex", now=NOW)
    recall.remember("me", "paris", now=NOW + 1)
    last = recall.remember("me", "paris paris", now=NOW + 2)
    assert recall.store.count("me") == 2
    assert last.size == 2 and last.text == "paris paris"
    assert recall.store.get("me", [first.id])[0].size == 1


def test_a_large_budget_is_merged_for_many_records_at_once(recall: Recall) -> None:
    recall.settings = MemorySettings(budget=40)
    counts = []
    for number in range(44):
        recall.remember("me", f"paris {number}", now=NOW + number)
        counts.append(recall.store.count("me"))
    assert counts[39:] == [40, 38, 39, 40, 38]


@pytest.mark.parametrize("mode", ["embedding", "bm25"])
def test_one_ranking_alone(recall: Recall, mode: str) -> None:
    recall.settings = MemorySettings(recall=RecallSettings(hybrid=mode))
    recall.remember("me", "quartz", now=NOW)
    recall.remember("me", "the dog", now=NOW)
    found = recall.search("dog or quartz", "me", as_of=NOW + 1)
    assert texts(found)[0] == ("the dog" if mode == "embedding" else "quartz")


def test_bad_input_is_refused(recall: Recall, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        recall.remember("me", "", modality="vision", media=tmp_path / "none.png")
    with pytest.raises(InputError, match="no picture, sound or film"):
        recall.search(tmp_path / "notes.xyz", "me")
    with pytest.raises(InputError, match="points nowhere"):
        recall.search(np.zeros(len(WORDS) + 1, np.float32), "me")


def test_a_period_is_preferred_and_what_lies_outside_stays_findable(recall: Recall) -> None:
    recall.settings = MemorySettings(recall=RecallSettings(timezone="UTC"))
    for days, place in ((20, "berlin"), (6, "paris"), (1, "tea")):
        recall.remember("me", f"a dog in {place}", now=NOW - days * DAY)
    found = recall.search("Which dog did I see last week?", "me", as_of=NOW)
    assert [item.gate for item in found] == ["last week"] * 3
    assert texts(found)[0] == "a dog in paris"


@pytest.mark.parametrize(("words", "place"), [("latest", "tea"), ("oldest", "berlin")])
def test_the_latest_and_the_oldest(recall: Recall, words: str, place: str) -> None:
    for days, where in ((9, "paris"), (1, "tea"), (20, "berlin")):
        recall.remember("me", f"a dog in {where}", now=NOW - days * DAY)
    for day in range(30):
        recall.remember("me", "coffee and a piano" + " red" * day, now=NOW - (day + 0.5) * DAY)
    found = recall.search(f"the {words} dog", "me", as_of=NOW)
    assert texts(found)[0] == f"a dog in {place}"


def test_the_latest_is_the_latest_of_what_was_asked_for(recall: Recall, tmp_path: Path) -> None:
    """Pictures too, and never what is newer but about something else."""
    for days, name in ((9, "red_circle_cat"), (5, "red_circle_tea"), (1, "blue_square"), (0.5, "coffee")):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
        recall.remember("me", "", modality="vision", media=tmp_path / f"{name}.png", now=NOW - days * DAY)
        recall.remember("me", name.replace("_", " and a "), now=NOW - days * DAY)
    for words, name in (("latest", "red_circle_tea"), ("first", "red_circle_cat")):
        found = recall.search(f"the {words} picture of a red circle", "me", as_of=NOW)
        text = next(item.record.text for item in found if item.record.modality == "text")
        media = next(item.record.media for item in found if item.record.modality == "vision")
        assert text.replace(" and a ", "_") == name and media is not None and Path(media.path).stem == name


def test_function_words_find_nothing_but_alone_they_do(recall: Recall) -> None:
    recall.settings = MemorySettings(recall=RecallSettings(hybrid="bm25"))
    recall.remember("me", "the quartz", now=NOW)
    recall.remember("me", "who is the one that i am", now=NOW)
    assert texts(recall.search("where is the quartz of which i know", "me", as_of=NOW + 1)) == ["the quartz"]
    assert texts(recall.search("who am i", "me", as_of=NOW + 1)) == ["who is the one that i am"]


def test_nothing_is_recalled_where_no_memory_is_like_the_question(recall: Recall, tmp_path: Path) -> None:
    (tmp_path / "cat_tea.png").write_bytes(b"picture")
    recall.remember("me", "the dog in berlin plays", now=NOW)
    recall.remember("me", "", modality="vision", media=tmp_path / "cat_tea.png", now=NOW)
    recall.settings = MemorySettings(recall=RecallSettings(known_relevance_across=0.65))
    assert recall.search("where is the quartz piano", "me", as_of=NOW + 1) == []
    assert recall.search("which dog drinks coffee or plays the piano", "me", as_of=NOW + 1) == []  # 2 of 5
    assert recall.search("the dog plays a quartz", "me", as_of=NOW + 1)  # 2 of 3 words
    assert recall.search("dog", "me", as_of=NOW + 1)
    assert recall.search("cat and tea", "me", as_of=NOW + 1)[0].record.modality == "vision"
    assert recall.search("the quartz piano", "me", as_of=NOW + 1, words=False)
    assert recall.search("the quartz piano", "me", as_of=NOW + 1, anything=True)
    assert recall.search("what did i see yesterday", "me", as_of=NOW + 1)  # a time is reason enough
    assert recall.search(recall.embedder.embed_text("the quartz piano"), "me", as_of=NOW + 1)
    for settings in (
        MemorySettings(recall=RecallSettings(known_words=0.0)),
        MemorySettings(reflection=ReflectionSettings(enabled=True, second_pass=True)),
    ):
        recall.settings = settings
        assert len(recall.search("where is the quartz piano", "me", as_of=NOW + 1)) == 2


def test_without_its_words_a_question_is_searched_by_embedding_and_time(recall: Recall) -> None:
    recall.settings = MemorySettings(recall=RecallSettings(timezone="UTC"))
    for days, text in ((6, "quartz one"), (1, "quartz quartz"), (20, "the dog")):
        recall.remember("me", text, now=NOW - days * DAY)
    first = recall.search("the dog quartz", "me", 1, as_of=NOW, words=False, explain=True)[0]
    assert first.record.text == "the dog" and first.text_score is None
    assert texts(recall.search("the quartz last week", "me", 1, as_of=NOW, words=False)) == ["quartz one"]


def test_without_the_gate_words_of_time_are_words(recall: Recall) -> None:
    recall.settings = MemorySettings(recall=RecallSettings(gate=False))
    recall.remember("me", "dog", now=NOW)
    assert recall.search("the latest dog", "me")[0].gate == "none"


def test_duplicates_count_once_and_the_rest_moves_up(recall: Recall) -> None:
    for text in ("the dog rex", "The dog Rex!", "a cat", "the rex dog"):
        recall.remember("me", text, now=NOW)
    assert len(recall.search("the dog rex", "me", 2, as_of=NOW + 1)) == 2
    assert "a cat" in texts(recall.search("the dog rex", "me", 3, as_of=NOW + 1))
    recall.settings = MemorySettings(recall=RecallSettings(duplicates=1.0))
    assert "a cat" not in texts(recall.search("the dog rex", "me", 3, as_of=NOW + 1))


def test_what_is_not_relevant_enough_is_not_recalled(recall: Recall, tmp_path: Path) -> None:
    (tmp_path / "cat_tea.png").write_bytes(b"picture")
    recall.remember("me", "the dog", now=NOW)
    recall.remember("me", "the cat", now=NOW)
    recall.remember("me", "the cat", modality="vision", media=tmp_path / "cat_tea.png", now=NOW)
    recall.settings = MemorySettings(recall=RecallSettings(min_relevance=0.9))
    found = recall.search("the dog", "me", as_of=NOW + 1)
    assert [(item.record.text, item.record.modality) for item in found] == [
        ("the dog", "text"), ("the cat", "vision")
    ]  # fmt: skip
    recall.settings = MemorySettings(recall=RecallSettings(min_relevance=0.9, min_relevance_across=0.9))
    assert texts(recall.search("the dog", "me", as_of=NOW + 1)) == ["the dog"]


def test_weights_change_the_order_and_are_explained(recall: Recall) -> None:
    recall.remember("me", "the dog in berlin", now=NOW - 20 * DAY)
    recall.remember("me", "the dog and cat in paris", now=NOW - DAY)
    recall.settings = MemorySettings(
        ScoringSettings(recency=1.0, saliency=0.0), RecallSettings(hybrid="embedding", gate=False)
    )
    first, second = recall.search("the dog berlin", "me", as_of=NOW, explain=True)
    assert first.record.text == "the dog and cat in paris" and first.terms.relevance < second.terms.relevance
    explained = first.explanation
    assert explained is not None and explained.weights.recency == 1.0
    assert explained.combined == pytest.approx(first.terms.relevance + first.terms.recency)
    assert first.terms.recency == pytest.approx(2 ** (-1 / 7))
    assert first.score == pytest.approx(1 / (recall.settings.recall.rrf_k + 1))
    recall.settings = MemorySettings(recall=RecallSettings(hybrid="embedding", gate=False))
    assert texts(recall.search("the dog berlin", "me", as_of=NOW))[0] == "the dog in berlin"


def test_what_is_pinned_comes_before_its_equals(recall: Recall) -> None:
    alike = RecallSettings(hybrid="embedding", duplicates=1.0)
    recall.settings = MemorySettings(ScoringSettings(saliency=0.05), alike)
    dog = recall.embedder.embed_text("the dog")
    *_, last = recall.remember_all([Draft("me", "the dog", dog, created=NOW, saliency=0.5)] * 3)
    assert recall.search("the dog", "me", as_of=NOW + 1)[0].record.id != last.id
    recall.store.update("me", last.id, pinned=True)
    assert recall.search("the dog", "me", as_of=NOW + 1)[0].record.id == last.id


def test_one_user_never_finds_anothers(recall: Recall) -> None:
    recall.remember("you", "the dog is called bello", now=NOW)
    assert recall.search("the dog is called bello", "me") == []
