"""A conversation that is remembered: what is kept of it, what comes back, and what does not."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from malmm.chat.loading import load_memory_session, load_reader
from malmm.chat.session import ChatSession
from malmm.errors import InputError
from malmm.memory.record import Draft
from malmm.memory.settings import MemorySettings, RecallSettings, ReflectionSettings
from malmm.memory.store import MemoryStore
from tests.malmm.chat.memory_parts import QUESTIONS, kept, open_memory, remembering

DAY = 86400.0


@pytest.fixture
def store(session: ChatSession, tmp_path: Path) -> Iterator[MemoryStore]:
    with open_memory(session, tmp_path / "memory.db") as store:
        yield store


def bank(session: ChatSession) -> torch.Tensor:
    visual = session._moment.state.memory.visual
    assert visual is not None
    return visual.slots


def texts(session: ChatSession) -> list[str]:
    return [turn.text for slot in session.memory() for turn in slot.turns]


def copies(store: MemoryStore, tmp_path: Path) -> list[Path]:
    return [path for path in tmp_path.rglob("*.png") if path.is_file()]


def test_every_turn_becomes_records(session: ChatSession, store: MemoryStore, parts: Path) -> None:
    chat = remembering(session, store)
    chat.show(parts / "red.png", "A red one")
    answer = chat.ask("Is it red?")
    chat.tell("my cat is called Tom")
    expected = [
        ("vision", "user", "A red one", 0),
        ("text", "user", "A red one", 0),
        ("text", "user", "Is it red?", 1),
        ("text", "assistant", answer, 1),
        ("text", "user", "my cat is called Tom", None),
    ]
    assert kept(store) == expected
    picture, *_, fact = sorted(store.records("me"), key=lambda record: record.id)
    assert picture.media is not None and picture.media.copied
    assert store.media_file(picture.media).read_bytes() == (parts / "red.png").read_bytes()  # type: ignore[union-attr]
    assert fact.pinned and not picture.pinned
    assert {record.conversation for record in store.records("me")} == {chat.conversation}


def test_it_answers_as_the_chat_without_memory(session: ChatSession, store: MemoryStore, parts: Path) -> None:
    session.show(parts / "red.png", "red")
    expected = [session.ask(question) for question in QUESTIONS]
    chat = remembering(session, store)
    chat.show(parts / "red.png", "red")
    assert [chat.ask(question) for question in QUESTIONS] == expected
    assert torch.allclose(bank(chat), bank(session), atol=1e-5)


def test_a_picture_of_an_earlier_conversation_comes_back(
    session: ChatSession, store: MemoryStore, parts: Path
) -> None:
    """What the model then has in its memory bank is what it has with the picture at hand."""
    banks = {}
    for colour in ("red", "blue"):
        session.reset()
        session.show(parts / f"{colour}.png", "two shapes")
        session.ask("is it?")
        banks[colour] = bank(session)
        remembering(session, store, colour).show(parts / f"{colour}.png", "two shapes")
    apart = (banks["red"] - banks["blue"]).abs().max()
    for user in ("red", "blue"):
        chat = remembering(session, store, user)
        chat.ask("is it?")
        assert texts(chat) == ["two shapes", "is it?"]
        assert (bank(chat) - banks[user]).abs().max() < 0.1 * apart
        picture = chat.why()[0]
        assert picture.record.media is not None and picture.record.media.path.endswith(f"{user}.png")
        assert chat.answered.use_of(picture) == "seen"
        assert {record.record.user for record in chat.why()} == {user}


def test_without_a_picture_in_the_memory_there_is_none(
    session: ChatSession, store: MemoryStore, parts: Path
) -> None:
    remembering(session, store, "other").show(parts / "red.png", "red")
    mine = remembering(session, store)
    with pytest.raises(InputError, match="no picture yet"):
        mine.ask("is it red?")
    assert mine.why() == [] and mine.find("red") == [] and kept(store) == []
    off = MemorySettings(recall=RecallSettings(pictures=False))
    with pytest.raises(InputError, match="no picture yet"):
        remembering(session, store, "other", settings=off).ask("is it red?")


def test_the_picture_at_hand_stays_unless_another_is_asked_for(
    session: ChatSession, store: MemoryStore, parts: Path
) -> None:
    yesterday = remembering(session, store)
    yesterday.show(parts / "red.png", "a red one")
    ids = [record.id for record in store.records("me")]
    # As if it had been yesterday.
    old = [
        Draft("me", r.text, r.embedding, r.modality, r.role, "old", r.turn, r.media, r.created - DAY)
        for r in store.get("me", ids)
    ]
    store.add(old)
    store.delete("me", ids)
    chat = remembering(session, store)
    chat.show(parts / "blue.png", "a blue one")
    for question in QUESTIONS:
        chat.ask(question)
    assert chat.picture == "blue.png"
    chat.ask("what was in the picture of yesterday?")
    assert chat.picture == "red.png"
    chat.ask("and is it round?")
    assert chat.picture == "red.png"
    nearer = MemorySettings(recall=RecallSettings(picture_margin=0.0))
    other = remembering(session, store, settings=nearer)
    other.show(parts / "red.png")
    pictures = set()
    for question in ("is it red?", *QUESTIONS):
        other.ask(question)
        pictures.add(other.picture)
    assert pictures == {"red.png", "blue.png"}  # without a margin chance decides


def test_nothing_is_encoded_twice(
    session: ChatSession, store: MemoryStore, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    for name in ("encode_images", "encode_texts"):
        encode = getattr(session.encoder, name)
        monkeypatch.setattr(
            session.encoder, name, lambda items, encode=encode: (seen.extend(items), encode(items))[1]
        )
    chat = remembering(session, store, conversation="one")
    chat.show(parts / "red.png", "red")
    answers = [chat.ask(question) for question in QUESTIONS]
    pairs = zip(QUESTIONS, answers, strict=True)
    assert seen == [parts / "red.png", "red", *(text for pair in pairs for text in pair)]
    seen.clear()
    again = remembering(session, store, conversation="one")
    assert texts(again) == ["red", *QUESTIONS]
    assert torch.allclose(bank(again), bank(chat), atol=0.02)  # the store keeps float16
    new = remembering(session, store)
    new.ask("is it?")
    assert seen[0] == "is it?" and len(seen) == 2  # and its answer; neither picture nor caption


def test_a_conversation_goes_on_with_the_picture_that_had_come_back(
    session: ChatSession, store: MemoryStore, parts: Path
) -> None:
    remembering(session, store).show(parts / "red.png", "red")
    remembering(session, store, conversation="two").ask("is it?")
    remembering(session, store).show(parts / "blue.png", "blue")  # shown later, elsewhere
    again = remembering(session, store, conversation="two")
    assert texts(again) == ["red", "is it?"]
    assert again.picture == "red.png"
    assert remembering(session, store, conversation="three").memory() == []


def test_a_turn_that_fails_or_is_abandoned_leaves_nothing(
    session: ChatSession, store: MemoryStore, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = remembering(session, store)
    chat.show(parts / "red.png", "red")
    before, moment = kept(store), chat._moment
    counts = [record.access_count for record in store.records("me")]
    pieces = chat.stream("is it?")
    next(pieces)
    pieces.close()

    def failing(*_: Any) -> None:
        raise InputError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "add", failing)
        with pytest.raises(InputError, match="disk is full"):
            chat.ask("is it?")
        with pytest.raises(InputError, match="disk is full"):
            chat.show(parts / "blue.png")
    assert kept(store) == before
    assert chat._moment is moment
    assert [record.access_count for record in store.records("me")] == counts
    assert chat.why() == []


def test_recalled_memories_count_an_access(session: ChatSession, store: MemoryStore, parts: Path) -> None:
    chat = remembering(session, store)
    fact = chat.tell("the square is mine")
    chat.show(parts / "red.png", "red")
    chat.ask("is there a square?")
    assert fact.id in [item.record.id for item in chat.why()]
    assert store.get("me", [fact.id])[0].access_count == 1
    assert chat.answered.use_of(next(i for i in chat.why() if i.record.id == fact.id)) == "found"


def test_forgetting_reaches_store_media_and_bank(
    session: ChatSession, store: MemoryStore, parts: Path, tmp_path: Path
) -> None:
    chat = remembering(session, store)
    chat.show(parts / "red.png", "a red wheel")
    chat.ask("is it?")
    assert len(copies(store, tmp_path)) == 1
    (found,) = [item.record for item in chat.find("wheel") if item.record.modality == "vision"]
    assert chat.forget([found.id]) == 2  # with its caption
    assert copies(store, tmp_path) == []
    assert chat.memory() == [] and chat.picture == "" and chat.why() == []
    assert next(text for _, _, text, _ in kept(store)) == "is it?"
    assert all(record.media is None or record.media.path == "" for record in store.records("me"))
    with pytest.raises(InputError, match="no picture yet"):
        chat.ask("is it?")
    other = remembering(session, store, "other")
    assert other.forget([record.id for record in store.records("me")]) == 0
    assert len(kept(store)) == 2


def test_a_caption_is_forgotten_with_its_picture(
    session: ChatSession, store: MemoryStore, parts: Path
) -> None:
    chat = remembering(session, store)
    chat.show(parts / "red.png", "a red wheel")
    caption = next(record for record in store.records("me") if record.modality == "text")
    assert chat.forget([caption.id]) == 2
    assert kept(store) == []


def test_a_picture_without_a_file_is_kept_too(
    session: ChatSession, store: MemoryStore, parts: Path, tmp_path: Path
) -> None:
    remembering(session, store).show(Image.open(parts / "red.png"))
    (copy,) = copies(store, tmp_path)
    assert Image.open(copy).tobytes() == Image.open(parts / "red.png").convert("RGB").tobytes()
    chat = remembering(session, store)
    chat.ask("is it?")
    assert texts(chat) == ["a photo", "is it?"]


def test_pinning_the_last_turn(session: ChatSession, store: MemoryStore, parts: Path) -> None:
    chat = remembering(session, store)
    with pytest.raises(InputError, match="nothing has been answered yet"):
        chat.pin_last()
    chat.show(parts / "red.png")
    chat.ask("is it?")
    assert [record.role for record in chat.pin_last()] == ["user", "assistant"]
    assert [record.pinned for record in store.records("me", newest_first=False)] == [False, True, True]


def test_reminders_enter_the_prompt_where_the_settings_say_so(
    session: ChatSession, store: MemoryStore, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    stream = session.model.language.stream

    def listening(visual: torch.Tensor, prompt: str, **generation: Any) -> Iterator[str]:
        prompts.append(prompt)
        return stream(visual, prompt, **generation)

    monkeypatch.setattr(session.model.language, "stream", listening)
    off = remembering(session, store)
    off.tell("the cat is called Tom")
    off.show(parts / "red.png", "red")
    off.ask("what is the cat called?")
    settings = MemorySettings(reflection=ReflectionSettings(enabled=True))
    on = remembering(session, store, settings=settings)
    on.ask("what is the cat called?")
    assert "Tom" not in prompts[0]
    assert "the cat is called Tom</reminder>" in prompts[1] and prompts[1].endswith("called? Answer:")
    fact = next(item for item in on.why() if "Tom" in item.record.text)
    assert on.answered.use_of(fact) == "read"
    nobody = remembering(session, store, "other", settings=settings)
    nobody.tell("my dog is called Rex")
    nobody.ask("what is my dog called?")  # of what was told: no picture is needed
    assert "Rex</reminder>" in prompts[2] and "Tom" not in prompts[2]
    assert nobody.memory() == []
    stranger = remembering(session, store, "stranger", settings=settings)
    assert stranger.ask("what is my dog called?") == settings.reflection.not_remembered
    assert len(prompts) == 3  # the model is not asked
    session.model.language.config = replace(session.model.language.config, max_prompt_tokens=30)
    on.ask("what is the cat called?")
    assert "reminder" not in prompts[3] and on.answered.read == ()  # never a prompt that is cut


def test_a_second_pass_answers_where_it_remembers(
    session: ChatSession, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model writes is made up here; that it is read, shown and kept is not."""
    written = ["The first.\nUSED: [1]\nANSWER: Rex", "No note.\nUSED: none\nANSWER: NOT REMEMBERED", "Rex!"]
    monkeypatch.setattr(session.model.language, "complete", lambda *_, **__: written.pop(0))
    monkeypatch.setattr(session.model.language, "stream", lambda *_, **__: iter(["one pass"]))
    monkeypatch.setattr(session.model.language.causal.config, "max_position_embeddings", 10000)
    settings = MemorySettings(reflection=ReflectionSettings(enabled=True, second_pass=True, max_reminders=1))
    chat = remembering(session, store, settings=settings)
    fact = chat.tell("my dog is called Rex")
    assert chat.ask("what is my dog called?") == "Rex"
    (named,) = chat.answered.named
    assert named.record.id == fact.id and chat.answered.use_of(named) == "named"
    assert chat.ask("and what is my dog's age?") == settings.reflection.not_remembered
    assert chat.ask("what is my dog called?") == "one pass"
    assert chat.answered.problem is not None and "ANSWER" in chat.answered.problem


def test_another_model_can_be_the_reader(
    session: ChatSession, store: MemoryStore, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of transformers reads the reminders alone; the dialogue's model is not asked."""
    reflection = ReflectionSettings(
        enabled=True, second_pass=True, reader=str(project / "assets/tiny/llm"), reader_precision="fp32"
    )
    settings = MemorySettings(reflection=reflection)
    reader = load_reader(settings)
    assert reader is not None and reader.language is not session.model.language
    monkeypatch.setattr(reader, "positions", 10000)
    asked: list[str] = []

    def complete(ids: list[int], visual: object, **_: object) -> str:
        assert visual is None
        asked.append(reader.language.tokenizer.decode(ids))
        return "The first.\nUSED: [1]\nANSWER: Rex"

    monkeypatch.setattr(reader.language, "complete", complete)
    chat = load_memory_session(session, store, settings, reader=reader)
    chat.tell("my dog is called Rex")
    assert chat.ask("what is my dog called?") == "Rex"
    assert "my dog is called Rex</reminder>" in asked[0]
    assert load_reader(MemorySettings()) is None


@pytest.mark.parametrize("name", ["", "a b", "../x", "é", "a" * 65, "a\n"])
def test_names_that_are_none(session: ChatSession, store: MemoryStore, name: str) -> None:
    with pytest.raises(InputError, match="no name of a user"):
        remembering(session, store, name)


def test_a_model_that_reads_lengths_is_refused(session: ChatSession, store: MemoryStore) -> None:
    session.model.config.normalize = False
    with pytest.raises(InputError, match="normalize is false"):
        remembering(session, store)


def test_turns_survive_a_merge(session: ChatSession, store: MemoryStore, parts: Path) -> None:
    settings = MemorySettings(budget=4)
    chat = remembering(session, store, conversation="long", settings=settings)
    chat.show(parts / "red.png", "red")
    for number in range(6):
        chat.ask(f"question {number}?")
    assert store.count("me") == 4
    again = remembering(session, store, conversation="long", settings=settings)
    assert texts(again) == ["red", *(f"question {number}?" for number in range(6))]
