"""The chat in a terminal: questions in, streamed answers out, and the commands that start with a slash.

On a terminal it prompts and uses colour; with piped input it reads one line a turn and prints each answer as
one plain line, so that a script can hold a conversation.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table

from extraction.errors import InputError as ExtractionInputError
from malmm.chat.session import ChatSession
from malmm.errors import InputError

HELP = """\
Type a question about the picture, or
  /image PATH [caption]  look at another picture; what was said before is kept (quote a path with spaces)
  /memory                what the memory bank holds, and which turns were merged
  /reset                 forget everything and start again with the picture now shown
  /help                  this text
  /quit                  leave (or Ctrl-D); Ctrl-C stops an answer"""


class Terminal:
    """Reads lines from `source`, prints what the session answers."""

    def __init__(self, session: ChatSession, source: TextIO | None = None) -> None:
        self.session = session
        self.source = source or sys.stdin
        self.interactive = self.source.isatty() and sys.stdout.isatty()
        # What is printed comes from files, models and people: nothing in it is markup.
        self.out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._shown: tuple[Path, str | None] | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/memory": self._memory,
            "/reset": self._reset,
            "/help": lambda _: self.out.print(HELP),
        }

    def show(self, path: Path, caption: str | None = None) -> None:
        """Look at a picture. Raises InputError where it cannot be read."""
        self.session.show(path, caption)
        self._shown = (path, caption)
        self._note(plain(f"looking at {path.name}"))

    def run(self) -> int:
        """Hold the conversation until `/quit` or the end of the input; returns the exit status 0."""
        if self.interactive:
            with suppress(ImportError):  # where there is one, input() edits lines and recalls them
                importlib.import_module("readline")
        self._note("ask about the picture; /help lists the commands")
        for line in self._lines():
            if line in ("/quit", "/exit"):
                break
            try:
                self._handle(line)
            except (InputError, ExtractionInputError) as error:
                self.err.print(plain(f"error: {error}"), style="red")
            except KeyboardInterrupt:
                self.out.print("\n(stopped; this turn is forgotten)" if self.interactive else "")
        return 0

    def _handle(self, line: str) -> None:
        if line.startswith("/"):
            name, _, rest = line.partition(" ")
            if name not in self._commands:
                raise InputError(f"there is no command {name}: /help lists them")
            self._commands[name](rest.strip())
        else:
            self._answer(line)

    def _answer(self, question: str) -> None:
        with closing(self.session.stream(question)) as pieces:
            for piece in pieces:
                self.out.print(plain(piece), end="", style="bold cyan")
                self.out.file.flush()
        self.out.print()

    def _lines(self) -> Iterator[str]:
        """The lines that were typed, empty ones left out."""
        while True:
            try:
                line = self._read_line("> ")
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                self._note("\n(Ctrl-D or /quit leaves)")
                continue
            if line is None:
                return
            if line:
                yield line

    def _read_line(self, prompt: str) -> str | None:
        """The next line without blanks around it; None at the end of the input."""
        if not self.interactive:
            line = self.source.readline()
            return line.strip() if line else None
        try:
            return input(prompt).strip()
        except EOFError:
            self.out.print()
            return None

    def _image(self, rest: str) -> None:
        if not rest:
            raise InputError("/image needs the path of a picture")
        self.show(*split_image_command(rest))

    def _reset(self, _: str) -> None:
        self.session.reset()
        if self._shown is not None:
            self.show(*self._shown)

    def _memory(self, _: str) -> None:
        slots = self.session.memory()
        if not slots:
            self.out.print("the memory is empty")
            return
        if not self.interactive:
            for slot in slots:
                turns = "; ".join(f"turn {turn.number} {turn.kind}: {turn.text}" for turn in slot.turns)
                self.out.print(plain(f"slot {slot.number}: {turns}"))
            return
        table = Table("slot", "turns merged", "what was shown or asked")
        for slot in slots:
            numbers = ", ".join(str(turn.number) for turn in slot.turns)
            texts = [plain(f"{turn.kind} ({turn.picture}): {turn.text}") for turn in slot.turns]
            table.add_row(str(slot.number), numbers, "\n".join(texts))
        self.out.print(table, soft_wrap=False)

    def _note(self, text: str) -> None:
        if self.interactive:
            self.out.print(text, style="dim")


def plain(text: str) -> str:
    """The text with a blank for every control character: no answer moves the cursor or ends the line."""
    return text.translate(dict.fromkeys((*range(32), *range(127, 160)), " "))


def split_image_command(rest: str) -> tuple[Path, str | None]:
    """What follows `/image` -> the path, and the caption where there is one.

    The path may stand in quotes; without them it ends at the first blank, unless the whole names a file.
    """
    if rest[0] in "\"'" and rest[0] in rest[1:]:
        path, _, caption = rest[1:].partition(rest[0])
    elif Path(rest).expanduser().is_file():
        path, caption = rest, ""
    else:
        path, _, caption = rest.partition(" ")
    return Path(path).expanduser(), caption.strip() or None
