"""The terminal of a chat with a long-term memory: its commands to remember, to forget and to ask why."""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TextIO

from rich.table import Table

from malmm.chat.exchange import export_memories
from malmm.chat.exchange_import import import_memories
from malmm.chat.remembering import MemorySession
from malmm.chat.terminal import HELP, Terminal, plain, split_image_command
from malmm.chat.turn_records import seen_with
from malmm.errors import InputError
from malmm.memory.recall import Recalled
from malmm.memory.record import Record

MEMORY_HELP = """\
  /remember TEXT         keep a fact, pinned; without TEXT, pin the last question and its answer
  /why                   the memories behind the last answer, and what their scores are made of
  /memories [QUERY]      what is remembered: the newest, or what a query finds
  /forget QUERY          find memories, ask which, and delete them with their pictures and sounds
  /sound PATH [caption]  listen to a sound; questions are about it as about a picture
  /export PATH           write all your memories to a folder, or to a file that ends in .zip
  /import PATH           add the memories of an export to yours"""
LISTED = 20  # memories of one list
FOUND = 10  # of a search
_KINDS = {"vision": "shown", "audio": "played", "video": "shown"}


class MemoryTerminal(Terminal):
    """Reads lines from `source`, prints what the session answers and remembers."""

    session: MemorySession

    def __init__(self, session: MemorySession, source: TextIO | None = None) -> None:
        super().__init__(session, source)
        self._commands |= {
            "/remember": self._remember,
            "/why": self._why,
            "/memories": self._memories,
            "/forget": self._forget,
            "/sound": self._sound,
            "/export": self._export,
            "/import": self._import,
            "/help": lambda _: self.out.print(memory_help()),
        }

    def _answer(self, question: str) -> None:
        before = self.session.answered.picture
        super()._answer(question)
        picture = self.session.answered.picture
        if picture is not None and (before is None or before.record.id != picture.record.id):
            self._note(plain(f"(looking again at what was {describe(picture.record)})"))

    def _remember(self, rest: str) -> None:
        if rest:
            self.session.tell(rest)
            self._note("remembered, and pinned")
            return
        for record in self.session.pin_last():
            self._note(plain(f"pinned: {describe(record)}"))

    def _sound(self, rest: str) -> None:
        if not rest:
            raise InputError("/sound needs the path of a sound")
        path, caption = split_image_command(rest)
        self.session.hear(path, caption)
        self._shown = None  # what /reset shows again is a picture
        self._note(plain(f"listening to {path.name}"))

    def _why(self, _: str) -> None:
        memories = self.session.why()
        if not memories:
            self.out.print("no memory is behind the last answer")
            return
        answered = self.session.answered
        if self.interactive:
            self.out.print(_table(memories, [answered.use_of(item) for item in memories]), soft_wrap=False)
        else:
            for number, item in enumerate(memories, 1):
                use = answered.use_of(item)
                self.out.print(plain(f"{number} {use}: {_terms(item)}; {_line(item.record)}"))
        if answered.problem is not None:
            self.out.print(plain(f"of the second pass could not be read: {answered.problem}"))

    def _memories(self, query: str) -> None:
        if query:
            found = [item.record for item in self.session.find(query, FOUND)]
            self._list(found)
            self.out.print(f"{_count(len(found))} found")
            return
        store, user = self.session.store, self.session.user
        newest = store.records(user, limit=2 * LISTED)  # of which up to half are captions
        shown = [record for record in newest if seen_with(store, record) is None]
        self._list(shown[:LISTED])
        self.out.print(plain(f"{user} has {_count(store.count(user))}, captions counted"))

    def _forget(self, query: str) -> None:
        if not query:
            raise InputError("/forget needs words that find what is to be forgotten")
        found = [item.record for item in self.session.find(query, FOUND)]
        if not found:
            self.out.print("nothing was found, and nothing is forgotten")
            return
        self._list(found)
        choice = "yes, or anything else for no" if len(found) == 1 else "numbers as 1 3, all, or none"
        answer = self._read_line(f"forget which? {choice}: ") or ""
        chosen = chosen_numbers(answer, len(found))
        if not chosen:
            self.out.print("nothing is forgotten")
            return
        number = self.session.forget([found[index - 1].id for index in chosen])
        self._shown = None  # it may be what has been forgotten
        self.out.print(f"forgotten: {_count(number)}")

    def _export(self, rest: str) -> None:
        path = self._path(rest, "/export")
        session = self.session
        number = export_memories(session.store, session.encoder.identity(), session.user, path)
        self.out.print(plain(f"{_count(number)} written to {path}"))

    def _import(self, rest: str) -> None:
        path = self._path(rest, "/import")
        session = self.session
        number = import_memories(session.store, session.encoder.identity(), session.user, path)
        self.out.print(plain(f"{_count(number)} added from {path}"))

    def _path(self, rest: str, command: str) -> Path:
        if not rest:
            raise InputError(f"{command} needs a path: of a folder, or of a file that ends in .zip")
        return Path(rest.strip("\"'")).expanduser()

    def _list(self, records: Sequence[Record]) -> None:
        for number, record in enumerate(records, 1):
            self.out.print(plain(f"{number:3}  {_line(record)}"))
            if record.size > 1:
                for part in self.session.store.merged(self.session.user, record.id):
                    self.out.print(plain(f"       merged: {_line(part)}"))


def memory_help() -> str:
    """`HELP` with the memory's commands before the last two."""
    lines = HELP.splitlines()
    return "\n".join([*lines[:-2], MEMORY_HELP, *lines[-2:]])


def describe(record: Record) -> str:
    """`shown "a circle" (p.png)`, `you said "..."`, `I answered "..."`."""
    if record.modality == "text":
        return f'{"I answered" if record.role == "assistant" else "you said"} "{record.text}"'
    name = Path(record.media.path).name if record.media else "no file"
    return f'{_KINDS[record.modality]} "{record.text}" ({name})' if record.text else f"shown ({name})"


def chosen_numbers(answer: str, count: int) -> list[int]:
    """Which of `count` numbered things an answer chooses; none where it is not wholly understood."""
    words = re.split(r"[\s,]+", answer.strip().lower())
    if words == ["all"] or (count == 1 and words in (["yes"], ["y"])):
        return list(range(1, count + 1))
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= count for word in words):
        return []
    return sorted({int(word) for word in words})


def _line(record: Record) -> str:
    marks = "".join(
        f", {mark}"
        for mark, there in (("pinned", record.pinned), (f"{record.size} merged", record.size > 1))
        if there
    )
    return f"{datetime.fromtimestamp(record.created):%Y-%m-%d %H:%M}  {describe(record)}{marks}"


def _terms(item: Recalled) -> str:
    terms = vars(item.terms)
    words = "" if item.text_score is None else f", words {item.text_score:.2f}"
    asked = "" if item.gate == "none" else f", asked for {item.gate}"
    return f"score {item.score:.4f}, " + ", ".join(f"{k} {v:.2f}" for k, v in terms.items()) + words + asked


def _table(memories: Sequence[Recalled], uses: Sequence[str]) -> Table:
    table = Table("", "memory", "used", "score", "relevance", "recency", "frequency", "saliency", "words")
    for number, (item, use) in enumerate(zip(memories, uses, strict=True), 1):
        terms = [f"{value:.2f}" for value in vars(item.terms).values()]
        words = "" if item.text_score is None else f"{item.text_score:.2f}"
        table.add_row(str(number), plain(_line(item.record)), use, f"{item.score:.4f}", *terms, words)
    return table


def _count(number: int) -> str:
    return f"{number} memor{'y' if number == 1 else 'ies'}"
