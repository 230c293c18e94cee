"""A second pass: the model reasons over its reminders, names those it used, and answers or says it cannot."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from malmm.memory.gate import local_time
from malmm.memory.reminders import Reminder, join_reminders, make_reminders
from malmm.memory.settings import MemorySettings

if TYPE_CHECKING:
    from malmm.memory.ranking import Recalled

# Models put marks such as ** around what they were asked to write; they may also go on after the answer.
_USED = re.compile(r"^\W*USED\W*:(?P<used>.*)$", re.MULTILINE)
_ANSWER = re.compile(r"^\W*ANSWER\W*:[*\s]*(?P<answer>.*?)\s*(?:\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)
_BRACKETED, _NUMBERS = re.compile(r"\[(\d+)\]"), re.compile(r"\d+")
_NONE = re.compile(r"\W*none\b", re.IGNORECASE)
_NOT_REMEMBERED = re.compile(r"\W*NOT REMEMBERED\b", re.IGNORECASE)


class Reader(Protocol):
    """A language model that reads a prompt and writes on."""

    def read(self, prompt: str) -> str:
        """What the model writes after `prompt`."""
        ...


@dataclass(frozen=True)
class Reflected:
    """What came of a second pass."""

    answer: str
    """`not_remembered` of the settings where the model says so; empty where none could be read."""
    used: list["Recalled"] = field(default_factory=list)
    """The memories that the model named, in the order of their reminders."""
    reasoning: str = ""
    """All that the model wrote."""
    remembered: bool = False
    """Whether there is an answer, and the model named a memory that it rests on."""
    problem: str | None = None
    """What could not be read in the model's words; None: nothing."""


class Reflection:
    """Answers questions from reminders alone."""

    def __init__(self, settings: MemorySettings | None = None) -> None:
        self.settings = settings or MemorySettings()

    def prompt(self, question: str, reminders: Sequence[Reminder], now: float) -> str:
        """What the model reads: the template `reasoning`."""
        templates = self.settings.reflection.templates
        return templates.reasoning.format(
            reminders=join_reminders(reminders, templates),
            question=question,
            date=local_time(now, self.settings.recall.zone).strftime("%A %Y-%m-%d"),
        )

    def answer(self, question: str, recalled: Sequence["Recalled"], reader: Reader, now: float) -> Reflected:
        """Let the model reason over what was recalled; without any reminder it is not asked.

        now: seconds since the epoch. What the model names is read, never guessed: `problem` says what could
        not be.
        """
        reminders = make_reminders(recalled, self.settings, now)
        if not reminders:
            return Reflected(self.settings.reflection.not_remembered)
        return self.parse(reader.read(self.prompt(question, reminders, now)), reminders)

    def parse(self, written: str, reminders: Sequence[Reminder]) -> Reflected:
        """Read the lines USED and ANSWER, the first of each."""
        used_line, answer_line = _USED.search(written), _ANSWER.search(written)
        if answer_line is None or not answer_line["answer"]:
            return Reflected("", reasoning=written, problem="the model wrote no line ANSWER: with an answer")
        used, problem = _named(used_line["used"] if used_line else None, reminders)
        answer = answer_line["answer"]
        if forgotten := _NOT_REMEMBERED.match(answer) is not None:
            answer = self.settings.reflection.not_remembered
        return Reflected(answer, used, written, bool(used) and not forgotten, problem)


def _named(line: str | None, reminders: Sequence[Reminder]) -> tuple[list["Recalled"], str | None]:
    """The memories whose numbers a USED line names, and what is wrong with it."""
    if line is None:
        return [], "the model wrote no line USED: with the reminders that it used"
    numbers = {int(number) for number in _BRACKETED.findall(line) or _NUMBERS.findall(line)}
    used = [reminder.recalled for reminder in reminders if reminder.number in numbers]
    if unknown := sorted(numbers - {reminder.number for reminder in reminders}):
        return used, f"the model names reminder [{unknown[0]}], which it was not shown"
    if not numbers and not _NONE.match(line):
        return [], f"the line USED: of the model names no reminder: '{line.strip()}'"
    return used, None
