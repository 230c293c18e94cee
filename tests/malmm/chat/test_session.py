"""The conversation: turns, what a failing one leaves behind, and that nothing grows but the list of texts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from extraction.errors import InputError as ExtractionInputError
from malmm.chat.loading import load_session
from malmm.chat.session import ChatSession
from malmm.errors import InputError
from malmm.models.dialogue import DialogueBatch

QUESTIONS = ["is there a square?", "what colour is it?", "left of it?"]


def texts(session: ChatSession) -> list[list[str]]:
    return [[turn.text for turn in slot.turns] for slot in session.memory()]


def test_a_conversation_answers_as_the_evaluation_does(session: ChatSession, parts: Path) -> None:
    """Turn by turn through the memory bank gives what the whole dialogue in one pass gives."""
    session.show(parts / "red.png", "a red picture")
    answers = [session.ask(question) for question in QUESTIONS]
    model, encoder = session.model, session.encoder
    embedded = encoder.encode_texts(["a red picture", *QUESTIONS])
    batch = DialogueBatch(
        [1],
        encoder.encode_images([parts / "red.png"]),
        embedded[None],
        torch.ones(1, 4, dtype=torch.bool),
        [QUESTIONS],
        [[None] * 3],
    )
    assert answers == model.answer(batch)[0]
    assert all(answers)


def test_pieces_join_to_the_answer(session: ChatSession, parts: Path) -> None:
    session.show(parts / "red.png")
    before = session._moment
    answer = session.ask(QUESTIONS[0])
    session._moment = before
    assert "".join(session.stream(QUESTIONS[0])) == answer


def test_what_was_said_changes_the_answer(session: ChatSession, parts: Path) -> None:
    def queries_after(*questions: str) -> torch.Tensor:
        session.reset()
        session.show(parts / "red.png")
        for question in questions:
            session.ask(question)
        now = session._moment
        embedded = session.encoder.encode_texts(["what colour is it?"])
        return session._observe(now.vision, embedded, now.state)[0]

    one, other = queries_after("is there a square?"), queries_after("is there a circle?")
    assert torch.equal(one, queries_after("is there a square?"))
    assert not torch.allclose(one, other, atol=1e-3)


def test_a_new_picture_keeps_the_memory(session: ChatSession, parts: Path) -> None:
    session.show(parts / "red.png")
    session.ask("what is it?")
    session.show(Image.open(parts / "blue.png"), "a blue one")
    assert session.picture == "a picture"
    assert texts(session) == [["a photo"], ["what is it?"], ["a blue one"]]
    assert [slot.turns[0].kind for slot in session.memory()] == ["picture", "question", "picture"]
    assert torch.equal(session._moment.vision, session.encoder.encode_images([parts / "blue.png"]))


def test_memory_is_bounded_and_accounts_for_every_turn(session: ChatSession, parts: Path) -> None:
    session.show(parts / "red.png")
    sizes = []
    for number in range(20):  # beyond the rows of turn_pe
        session.ask(f"question {number}?")
        sizes.append(session._moment.state.memory.nbytes())
    slots = session.memory()
    assert len(slots) == 3
    assert set(sizes[3:]) == {sizes[3]}
    assert [turn.number for slot in slots for turn in slot.turns] == list(range(21))
    assert any(slot.merged for slot in slots)


def test_each_turn_is_encoded_once(
    session: ChatSession, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    for name in ("encode_images", "encode_texts"):
        encode = getattr(session.encoder, name)
        monkeypatch.setattr(
            session.encoder, name, lambda items, encode=encode: (seen.extend(items), encode(items))[1]
        )
    session.show(parts / "red.png", "red")
    for question in QUESTIONS:
        session.ask(question)
    assert seen == [parts / "red.png", "red", *QUESTIONS]


def test_reset_forgets(session: ChatSession, parts: Path) -> None:
    session.show(parts / "red.png")
    first = session.ask("what colour is it?")
    session.ask("is there a square?")
    session.reset()
    assert session.memory() == []
    with pytest.raises(InputError, match="no picture"):
        session.ask("what colour is it?")
    session.show(parts / "red.png")
    assert session.ask("what colour is it?") == first


def test_refused_questions_leave_the_conversation_as_it_was(session: ChatSession, parts: Path) -> None:
    session.show(parts / "red.png")
    session.ask("what is it?")
    before = session._moment
    for question, sentence in {
        "": "the question is empty",
        " \n": "the question is empty",
        "word " * 5000: r"the question has \d{4,} tokens, the text encoder reads 77",
    }.items():
        with pytest.raises(InputError, match=sentence):
            session.stream(question)
    with pytest.raises(InputError, match="the caption has"):
        session.show(parts / "blue.png", "word " * 5000)
    assert session._moment is before
    assert session.ask("what colour is it?")


def test_a_prompt_that_the_language_model_would_cut_is_refused(parts: Path) -> None:
    session = load_session(parts / "model.yaml", options=["model.language.max_prompt_tokens", "30"])
    session.show(parts / "red.png", "red")
    with pytest.raises(
        InputError, match=r"the question makes a prompt of \d+ tokens, max_prompt_tokens is 30"
    ):
        session.ask("is there a square left of the circle that you see above the other one?")
    session.ask("is it?")
    assert texts(session) == [["red"], ["is it?"]]


@pytest.mark.parametrize("content", [None, b"no picture", "truncated"])
def test_a_picture_that_cannot_be_read(
    session: ChatSession, parts: Path, tmp_path: Path, content: bytes | str | None
) -> None:
    path = tmp_path / "broken.png"
    if content is not None:
        data = (parts / "red.png").read_bytes()
        path.write_bytes(data[: len(data) // 2] if content == "truncated" else content)
    session.show(parts / "red.png")
    before = session._moment
    with pytest.raises(ExtractionInputError, match=r"broken\.png"):
        session.show(path)
    assert session._moment is before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_turn_that_fails_midway_never_was(
    session: ChatSession, parts: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def failing(queries: torch.Tensor, question: str, **generation: Any) -> Iterator[str]:
        yield "a"
        raise error

    session.show(parts / "red.png")
    session.ask("what is it?")
    before = session._moment
    expected = session.ask("what colour is it?")
    session._moment = before
    with monkeypatch.context() as patch:
        patch.setattr(session.model, "stream", failing)
        with pytest.raises(error):
            session.ask("is there a square?")
    assert session._moment is before
    assert session.ask("what colour is it?") == expected


def test_an_answer_not_read_to_its_end_never_was(session: ChatSession, parts: Path) -> None:
    session.show(parts / "red.png")
    before = session._moment
    pieces = session.stream("what is it?")
    next(pieces)
    pieces.close()
    assert session._moment is before


def test_bytes_that_are_no_text_are_asked_as_question_marks(session: ChatSession, parts: Path) -> None:
    session.show(parts / "red.png")
    session.ask("is it \udcff?")  # what Python makes of byte 255 on the standard input
    assert texts(session)[-1] == ["is it ??"]


def test_two_answers_at_once_do_not_mix(session: ChatSession, parts: Path) -> None:
    """The later one to finish counts, with the conversation that it was asked in."""
    session.show(parts / "red.png")
    first = session.stream("is there a square?")
    next(first)
    session.ask("what is it?")
    assert texts(session) == [["a photo"], ["what is it?"]]
    list(first)
    assert texts(session) == [["a photo"], ["is there a square?"]]


def test_questions_take_visdials_form_where_the_model_learned_from_it(parts: Path) -> None:
    styled = load_session(parts / "model.yaml", options=["model.visdial_style", "true"])
    plain = load_session(parts / "model.yaml")
    for session in (styled, plain):
        session.show(parts / "red.png", "two shapes")
    assert styled.ask(" What colour is the CIRCLE?! ") == plain.ask("what colour is the circle")
    assert styled.memory()[-1].turns[-1].text == "what colour is the circle"
    with pytest.raises(InputError, match="the question is empty"):
        styled.ask("?")


def test_encoder_and_model_must_fit(session: ChatSession) -> None:
    session.model.config.embedding_width = 32
    with pytest.raises(InputError, match="embeddings of 16 numbers, the dialogue model reads 32"):
        ChatSession(session.model, session.encoder)
