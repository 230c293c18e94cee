"""The terminal: what it reads and prints, without and with a terminal behind it."""

import io
import os
import pty
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from malmm.__main__ import main
from malmm.chat.session import ChatSession
from malmm.chat.terminal import Terminal, plain, split_image_command
from malmm.data.mini import ANSWERS, draw, make_world_item

CHAT = [sys.executable, "-m", "malmm", "chat"]


def talk(session: ChatSession, capsys: pytest.CaptureFixture[str], *lines: str) -> tuple[list[str], str]:
    """Lines in, (lines out, errors) back."""
    status = Terminal(session, io.StringIO("".join(f"{line}\n" for line in lines))).run()
    captured = capsys.readouterr()
    assert status == 0
    return captured.out.splitlines(), captured.err


def test_one_line_an_answer(session: ChatSession, parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session.show(parts / "red.png")
    expected = [session.ask(question) for question in ("what is it?", "is it red?")]
    session.reset()
    out, err = talk(session, capsys, f"/image {parts / 'red.png'}", "", "what is it?", "  is it red? ")
    assert out == [plain(answer) for answer in expected]
    assert err == ""


def test_quit_ends_it(session: ChatSession, parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session.show(parts / "red.png")
    out, _ = talk(session, capsys, "/quit", "what is it?")
    assert out == []


def test_mistakes_are_told_and_the_conversation_goes_on(
    session: ChatSession, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = talk(
        session,
        capsys,
        "what is it?",
        "/image",
        "/image nowhere.png",
        "/imagine",
        f"/image {parts / 'red.png'}",
        "word " * 5000,
        "what is it?",
    )
    assert len(out) == 1
    sentences = err.splitlines()
    assert [sentence.startswith("error: ") for sentence in sentences] == [True] * 5
    for sentence, words in zip(
        sentences,
        ("no picture yet", "needs the path", "nowhere.png", "no command /imagine", "reads 77"),
        strict=True,
    ):
        assert words in sentence


def test_memory_lists_the_turns_of_each_slot(
    session: ChatSession, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = [f"question {number}?" for number in range(5)]
    out, _ = talk(
        session, capsys, "/memory", f"/image {parts / 'red.png'} a [red] one", *questions, "/memory"
    )
    assert out[0] == "the memory is empty"
    listed = out[-3:]  # the bank of this model has three slots
    assert [line.split(":")[0] for line in listed] == ["slot 0", "slot 1", "slot 2"]
    turns = [turn for line in listed for turn in line.split(": ", 1)[1].split("; ")]
    assert turns == [
        "turn 0 picture: a [red] one",
        *(f"turn {n + 1} question: {q}" for n, q in enumerate(questions)),
    ]


def test_reset_looks_at_the_same_picture_again(
    session: ChatSession, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = talk(
        session,
        capsys,
        f"/image {parts / 'red.png'} red",
        "what is it?",
        "is it?",
        "/reset",
        "what is it?",
        "/memory",
    )
    assert err == ""
    assert out[0] == out[2]
    assert out[3:] == ["slot 0: turn 0 picture: red", "slot 1: turn 1 question: what is it?"]


def test_help_names_every_command(session: ChatSession, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = talk(session, capsys, "/help")
    assert all(
        any(name in line for line in out) for name in ("/image", "/memory", "/reset", "/help", "/quit")
    )


@pytest.mark.parametrize(
    ("rest", "path", "caption"),
    [
        ("a.png", "a.png", None),
        ("a.png it's a dog", "a.png", "it's a dog"),
        ('"my picture.png" two dogs', "my picture.png", "two dogs"),
        ("'my picture.png'", "my picture.png", None),
        ("~/a.png", str(Path.home() / "a.png"), None),
    ],
)
def test_image_command(rest: str, path: str, caption: str | None) -> None:
    assert split_image_command(rest) == (Path(path), caption)


def test_an_answer_cannot_move_the_cursor(
    session: ChatSession, parts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = ["[bold]yes[/bold] ", ":smile:\x1b[2J\n", "no\x9b"]
    monkeypatch.setattr(session.model, "stream", lambda *_, **__: iter(pieces))
    out, _ = talk(session, capsys, f"/image {parts / 'red.png'}", "is it?")
    assert out == ["[bold]yes[/bold] :smile: [2J no "]


def test_an_existing_file_may_hold_blanks(tmp_path: Path) -> None:
    file = tmp_path / "my picture.png"
    file.touch()
    assert split_image_command(str(file)) == (file, None)


def test_the_command_with_piped_input(parts: Path) -> None:
    arguments = ["--config", str(parts / "model.yaml"), "--image", str(parts / "red.png"), "--caption", "red"]
    done = subprocess.run(
        [*CHAT, *arguments], input="what is it?\n/memory\n", capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [
        "slot 0: turn 0 picture: red",
        "slot 1: turn 1 question: what is it?",
    ]
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--image", "nowhere.png"], "nowhere.png"),
        (["--checkpoint", "nowhere.pth"], "there is no checkpoint nowhere.pth"),
        (["--checkpoint", "{parts}/red.png"], "is not a checkpoint"),
        (["--llm_model_path", "/nowhere/llama"], "/nowhere/llama"),
        (["--options", "model.memory_bank_lenght", "3"], "memory_bank_length"),
        (["model.memory_bank_length", "3"], "write --options"),
        (["--config", "{parts}"], "configuration"),
    ],
)
def test_what_cannot_start_ends_with_a_sentence(
    parts: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    config = ["--config", str(parts / "model.yaml")]
    with pytest.raises(SystemExit) as end:
        main(["chat", *config, *(argument.format(parts=parts) for argument in arguments)])
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert captured.err.startswith("error: ") and words in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""


def test_the_embedded_default_answers_about_a_picture_of_its_world(project: Path, tmp_path: Path) -> None:
    _, scene, dialogue = make_world_item("val", 0)
    draw(scene).save(tmp_path / "picture.png")
    questions = [round_.question for round_ in dialogue.rounds]
    done = subprocess.run(
        [*CHAT, "--image", str(tmp_path / "picture.png"), "--caption", dialogue.caption],
        input="".join(f"{question}\n" for question in questions),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(project)},
    )
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert len(answers) == len(questions)
    assert sum(answer in ANSWERS for answer in answers) >= 8  # it has learned to answer in VisDial's manner


class Keyboard:
    """The command on a pseudo terminal."""

    def __init__(self, *arguments: str) -> None:
        self.screen, terminal = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        self.process = subprocess.Popen(
            [*CHAT, *arguments], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
            env=environment,
        )  # fmt: skip
        os.close(terminal)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def read(self) -> None:
        """Take what appears within a second."""
        if select.select([self.screen], [], [], 1)[0]:
            with suppress(OSError):  # the other end is closed
                self.seen += os.read(self.screen, 4096).decode(errors="replace")

    def wait_for(self, text: str) -> str:
        """What appeared up to and with `text`."""
        while text not in self.seen:
            assert self.process.poll() is None, self.seen
            self.read()
        before, found, self.seen = self.seen.partition(text)
        return before + found

    def interrupt_until(self, text: str) -> None:
        """Press Ctrl-C until `text` appears: one just before input() begins to wait goes unseen."""
        while text not in self.seen:
            self.process.send_signal(signal.SIGINT)
            for _ in range(5):
                if text not in self.seen:
                    self.read()
        self.wait_for(text)

    def end(self) -> int:
        status = self.process.wait(60)
        os.close(self.screen)
        return status


def test_ctrl_c_stops_the_answer_and_nothing_else(parts: Path) -> None:
    options = [
        "--options",
        "model.generation.max_new_tokens",
        "100000",
        "model.generation.min_new_tokens",
        "99999",
    ]
    keyboard = Keyboard("--config", str(parts / "model.yaml"), "--image", str(parts / "red.png"), *options)
    keyboard.wait_for("> ")
    keyboard.type("what is it?\n")
    keyboard.wait_for("\x1b[1;36m")  # the answer's colour
    keyboard.process.send_signal(signal.SIGINT)
    keyboard.wait_for("stopped")
    keyboard.wait_for("> ")
    keyboard.type("/memory\n")
    table = keyboard.wait_for("> ")
    assert "a photo" in table and "what is it?" not in table
    keyboard.interrupt_until("Ctrl-D")  # at the prompt: a hint
    keyboard.wait_for("> ")
    keyboard.type("\x04")
    assert keyboard.end() == 0
