"""The commands of the chat with a memory, and conversations that several processes hold."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from malmm.__main__ import main
from malmm.chat.loading import default_store, split_options
from malmm.chat.memory_commands import MEMORY_HELP, MemoryTerminal, chosen_numbers, memory_help
from malmm.chat.remembering import MemorySession
from malmm.chat.session import ChatSession
from malmm.data.mini import draw, make_world_item
from malmm.data.mini_sound import scene_sound, write_sound
from malmm.memory.store import MemoryStore
from tests.malmm.chat.memory_parts import kept, open_memory, remembering

CHAT = [sys.executable, "-m", "malmm", "chat"]
Talk = Callable[..., tuple[list[str], str]]


@pytest.fixture
def store(session: ChatSession, tmp_path: Path) -> Iterator[MemoryStore]:
    with open_memory(session, tmp_path / "memory.db") as store:
        yield store


@pytest.fixture
def chat(session: ChatSession, store: MemoryStore) -> MemorySession:
    return remembering(session, store)


@pytest.fixture
def talk(chat: MemorySession, capsys: pytest.CaptureFixture[str]) -> Talk:
    """Lines in, (lines out, errors) back."""

    def hold(*lines: str) -> tuple[list[str], str]:
        assert MemoryTerminal(chat, io.StringIO("".join(f"{line}\n" for line in lines))).run() == 0
        captured = capsys.readouterr()
        return captured.out.splitlines(), captured.err

    return hold


def test_remember_and_list(talk: Talk, chat: MemorySession, parts: Path) -> None:
    image = f"/image {parts / 'red.png'} a [red] one"
    out, err = talk("/remember", image, "is it?", "/remember", "/remember my cat", "/memories")
    assert err == "error: nothing has been answered yet: say what to remember\n"
    listed = out[-5:]
    assert listed[0].endswith('you said "my cat", pinned')
    assert "I answered" in listed[1] and listed[1].endswith(", pinned")
    assert listed[2].endswith('you said "is it?", pinned')
    assert listed[3].endswith('shown "a [red] one" (red.png)')
    assert listed[4] == "me has 5 memories, captions counted"
    out, _ = talk("/memories cat")
    assert out[0].endswith('you said "my cat", pinned') and out[-1].endswith("found")


def test_what_was_merged_is_listed_below_what_it_became(
    talk: Talk, chat: MemorySession, store: MemoryStore
) -> None:
    for text in ("the cat sleeps", "the cat sleeps again", "red"):
        chat.recall.remember("me", text)
    assert store.merge("me", 2) == 1
    out, _ = talk("/memories")
    (kept,) = [number for number, line in enumerate(out) if line.endswith(", 2 merged")]
    below = [line for line in out[kept + 1 :] if line.startswith("       merged: ")]
    assert out[kept + 1 : kept + 3] == below and len(below) == 2
    assert {line.rpartition("you said ")[2] for line in below} < {
        '"the cat sleeps"', '"the cat sleeps again"', '"red"',
    }  # fmt: skip


def test_why_lists_what_is_behind_the_answer(talk: Talk, parts: Path) -> None:
    assert talk("/why")[0] == ["no memory is behind the last answer"]
    out, _ = talk(
        f"/image {parts / 'red.png'} a red wheel", "/remember my wheel", "is there a wheel?", "/why"
    )
    mine = next(line for line in out[1:] if "my wheel" in line)
    for term in ("found: score ", "relevance ", "recency ", "frequency ", "saliency ", "words "):
        assert term in mine


@pytest.mark.parametrize(
    ("answer", "count", "chosen"),
    [
        ("1 3", 3, [1, 3]), ("3,1", 3, [1, 3]), ("all", 2, [1, 2]), ("yes", 1, [1]), ("Y", 1, [1]),
        ("2", 2, [2]),
        ("yes", 2, []), ("no", 1, []), ("", 3, []), ("4", 3, []), ("0", 3, []), ("1 x", 3, []), ("-1", 3, []),
        ("²", 3, []), ("what is it?", 3, []),
    ],
)  # fmt: skip
def test_what_an_answer_chooses(answer: str, count: int, chosen: list[int]) -> None:
    assert chosen_numbers(answer, count) == chosen


def test_forget_asks_first(talk: Talk, store: MemoryStore, parts: Path, tmp_path: Path) -> None:
    assert talk("/forget wheel")[0] == ["nothing was found, and nothing is forgotten"]
    talk(f"/image {parts / 'red.png'} a red wheel", "/remember my cat is called Tom")
    out, err = talk("/forget", "/forget wheel", "no", "/forget wheel")  # and then the input ends
    assert "needs words" in err
    assert out.count("nothing is forgotten") == 2
    assert len(kept(store)) == 3
    found = next(line for line in out if "red.png" in line)
    out, _ = talk("/forget wheel", found.split()[0], "/memory")
    assert out[-2:] == ["forgotten: 2 memories", "the memory is empty"]
    assert [text for _, _, text, _ in kept(store)] == ["my cat is called Tom"]
    assert not list(tmp_path.rglob("*.png"))


def test_export_and_import(talk: Talk, store: MemoryStore, tmp_path: Path) -> None:
    out, _ = talk("/remember one", "/remember two", f"/export {tmp_path / 'all.zip'}", "/forget one", "all")
    assert f"2 memories written to {tmp_path / 'all.zip'}" in out
    talk("/forget two", "all")
    assert kept(store) == []
    out, err = talk(
        f"/import {tmp_path / 'all.zip'}", "/import nowhere", "/export", f"/export {tmp_path / 'all.zip'}"
    )
    assert out == [f"2 memories added from {tmp_path / 'all.zip'}"]
    assert [line.startswith("error: ") for line in err.splitlines()] == [True] * 3
    assert {text for _, _, text, _ in kept(store)} == {"one", "two"}


def test_a_memory_cannot_move_the_cursor(talk: Talk) -> None:
    out, _ = talk("/remember [bold]a\x1b[2Jb", "/memories")
    assert out[0].endswith('you said "[bold]a [2Jb", pinned')


def test_help_names_every_command(talk: Talk, chat: MemorySession) -> None:
    out, _ = talk("/help")
    assert out == memory_help().splitlines()
    commands = {*MemoryTerminal(chat, io.StringIO())._commands, "/quit"}
    assert {line.split()[0] for line in out if line.startswith("  /")} == commands
    assert all(line.startswith("  /") for line in MEMORY_HELP.splitlines())


def test_options_of_memory_and_model() -> None:
    words = ["memory.recall.k", "10", "model.seed=1", "model.prompt", "memory.x", "memory.budget=3"]
    assert split_options(words) == (
        ["memory.recall.k", "10", "memory.budget=3"], ["model.seed=1", "model.prompt", "memory.x"],
    )  # fmt: skip


def test_where_the_store_is_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_store() == str(tmp_path / "malmm" / "memory.db")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_store() == str(tmp_path / ".local/share/malmm/memory.db")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--user", "a b"], "no name of a user"),
        (["--user", ""], "no name of a user"),
        (["--store", "{parts}"], "is a folder"),
        (["--store", "{parts}/red.png"], "is no SQLite database"),
        (["--memory-config", "nowhere.yaml"], "no configuration file nowhere.yaml"),
        (["--conversation", " ", "--store", "{parts}/new.db"], "the conversation's name is empty"),
        (["--user", "me", "--options", "memory.recall.kk", "3"], "memory.recall.k"),
        (["--options", "memory.recall.k", "3"], "memory"),
    ],
)
def test_what_cannot_start_ends_with_a_sentence(
    parts: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(
            ["chat", "--config", str(parts / "model.yaml"), *(word.format(parts=parts) for word in arguments)]
        )
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert captured.err.startswith("error: ") and words in captured.err
    assert len(captured.err.strip().splitlines()) == 1


# -- several processes, the embedded default ---------------------------------------------------------

QUESTION = "What is the color of the circle?"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures whose circle the embedded default names right: blue in mine.png, yellow in yours.png."""
    folder = tmp_path_factory.mktemp("world")
    for name, index in (("mine", 0), ("yours", 2)):
        _, scene, _ = make_world_item("val", index)
        draw(scene).save(folder / f"{name}.png")
        write_sound(folder / f"{name}.wav", scene_sound(scene))
    return folder


def process(world: Path, project: Path, *arguments: str, lines: str) -> tuple[list[str], str]:
    """One run of the command in `world` with piped input -> (lines out, errors)."""
    done = subprocess.run(
        [*CHAT, *arguments], input=lines, capture_output=True, text=True, timeout=300, cwd=world,
        env={**os.environ, "PYTHONPATH": str(project)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def test_a_conversation_over_processes(world: Path, project: Path) -> None:
    me = ("--user", "me", "--store", "memory.db")
    you = ("--user", "you", "--store", "memory.db")
    shown, err = process(
        world, project, *me, lines="/image mine.png a circle and a star\n/remember My cat is called Tom\n"
    )
    assert (shown, err) == ([], "")

    out, err = process(world, project, *me, lines=f"{QUESTION}\n/why\nIs there a star?\n/memories cat\n")
    assert err == ""
    assert out[0] == "blue"
    assert out[1].startswith("1 seen: score ") and 'shown "a circle and a star" (mine.png)' in out[1]
    assert any(line.endswith('you said "My cat is called Tom", pinned') for line in out[2:])
    assert "yes" in out

    # The control: it was the picture that was remembered, and nobody else's.
    out, err = process(
        world, project, *you, lines=f"/memories\n{QUESTION}\n/image yours.png a purple triangle\n{QUESTION}\n"
    )
    assert out == ["you has 0 memories, captions counted", "yellow"]
    assert err == "error: there is no picture yet: show one first\n"

    copies = {path.name for path in world.rglob("memory.db*/**/*.png")}
    assert len(copies) == 2
    out, err = process(
        world, project, *me, lines=f"/forget circle and star\nall\n{QUESTION}\n/memories mine\n"
    )
    assert any(line.startswith("forgotten: ") for line in out)
    assert err == "error: there is no picture yet: show one first\n"
    assert len({path.name for path in world.rglob("memory.db*/**/*.png")}) == 1  # yours
    assert b"circle and a star" not in (world / "memory.db").read_bytes()


@pytest.mark.slow
def test_sounds_conversations_and_imports_over_processes(world: Path, project: Path) -> None:
    store = ("--store", "sounds.db")
    lines = f"/sound mine.wav\n{QUESTION}\n/export out.zip\n"
    out, err = process(world, project, *store, "--conversation", "talk", lines=lines)
    assert (out, err) == (["blue", "3 memories written to out.zip"], "")
    out, err = process(world, project, *store, "--conversation", "talk", lines=f"/memory\n{QUESTION}\n")
    assert out == ["slot 0: turn 0 sound: a picture of some shapes",
                   "slot 1: turn 1 question: what is the color of the circle", "blue"]  # fmt: skip
    again = ("--user", "again", "--store", "again.db", "--conversation", "talk")
    out, err = process(world, project, *again, lines="/import out.zip\n")
    out, err = process(world, project, *again, lines=f"{QUESTION}\n/image yours.png\n{QUESTION}\n")
    assert (out, err) == (["blue", "yellow"], "")


@pytest.mark.slow
def test_without_user_and_store_nothing_is_remembered(world: Path, project: Path) -> None:
    assert process(world, project, lines=f"/image mine.png\n{QUESTION}\n") == (["blue"], "")
    out, err = process(world, project, lines=f"{QUESTION}\n/why\n")
    assert out == []
    assert err.splitlines()[0] == "error: there is no picture yet: show one first"
    assert "there is no command /why" in err
