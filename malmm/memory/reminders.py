"""Recalled memories as lines of a prompt: data in <reminder> tags that no text in them can leave."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from malmm.memory.gate import local_time
from malmm.memory.record import Record
from malmm.memory.settings import MemorySettings, Templates

if TYPE_CHECKING:
    from malmm.memory.ranking import Recalled

OPEN, CLOSE = "<reminder>", "</reminder>"
_KINDS = {"vision": "picture", "audio": "sound", "video": "film"}
_BRACKETS = {"<": "‹", ">": "›"}
_JOINERS = "\u200c\u200d"  # invisible, but part of how Persian and emoji are written
_AGES = (("year", 365 * 86400), ("month", 30 * 86400), ("day", 86400), ("hour", 3600), ("minute", 60))


@dataclass(frozen=True)
class Reminder:
    """One memory as the model reads it."""

    number: int
    """By which the model names it, from 1."""
    recalled: "Recalled"
    line: str


def format_reminders(recalled: Sequence["Recalled"], settings: MemorySettings, now: float) -> str:
    """The instruction that reminders are data, and their lines; empty where nothing was recalled."""
    return join_reminders(make_reminders(recalled, settings, now), settings.reflection.templates)


def join_reminders(reminders: Sequence[Reminder], templates: Templates) -> str:
    """`format_reminders` of lines that are made already."""
    if not reminders:
        return ""
    return "\n".join([templates.instruction, *(reminder.line for reminder in reminders)])


def add_reminders(prompt: str, recalled: Sequence["Recalled"], settings: MemorySettings, now: float) -> str:
    """A prompt with reminders, as the template `question` puts them; unchanged where there are none."""
    reminders = format_reminders(recalled, settings, now)
    if not reminders:
        return prompt
    return settings.reflection.templates.question.format(reminders=reminders, question=prompt)


def make_reminders(recalled: Sequence["Recalled"], settings: MemorySettings, now: float) -> list[Reminder]:
    """The best memories that fit `max_reminders` and `max_characters`, oldest first, numbered from 1.

    The newest stands last, next to the question, because it is right where two contradict each other. The
    last text that does not fit is cut, and ends in "…".
    """
    reflection = settings.reflection
    chosen: list[tuple[Recalled, str]] = []
    room = reflection.max_characters
    for item in recalled[: reflection.max_reminders]:
        text = neutralise(item.record.text)
        # A number of as many digits as any: it is known only when all are chosen.
        excess = len(_line(item.record, text, reflection.max_reminders, settings, now)) + 1 - room
        if excess > 0 and excess + 1 >= len(text):
            break
        text = text if excess <= 0 else text[: -excess - 1].rstrip() + "…"
        chosen.append((item, text))
        room -= len(_line(item.record, text, reflection.max_reminders, settings, now)) + 1
    chosen.sort(key=lambda pair: (pair[0].record.created, pair[0].record.id))
    return [
        Reminder(number, item, _line(item.record, text, number, settings, now))
        for number, (item, text) in enumerate(chosen, 1)
    ]


def _line(record: Record, text: str, number: int, settings: MemorySettings, now: float) -> str:
    templates = settings.reflection.templates
    inside = templates.reminder.format(
        number=number,
        date=local_time(record.created, settings.recall.zone).strftime("%Y-%m-%d %H:%M"),
        age=age_in_words(now - record.created),
        source=source(record, templates),
        text=text,
    )
    return f"{OPEN}{inside}{CLOSE}"


def source(record: Record, templates: Templates) -> str:
    """Where a memory comes from: `said by the user`, `shown picture "beach.jpg"`."""
    if record.modality != "text":
        kind = _KINDS[record.modality]
        if record.media is None:
            return templates.shown_unnamed.format(kind=kind)
        name = neutralise(PurePath(record.media.path).name).replace('"', "'")
        return templates.shown.format(kind=kind, name=name)
    return templates.said_by_assistant if record.role == "assistant" else templates.said_by_user


def age_in_words(seconds: float) -> str:
    """`3 days ago`, rounded down; `just now` below a minute, and for what is yet to come."""
    for unit, length in _AGES:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' * (count > 1)} ago"
    return "just now"


def neutralise(text: str) -> str:
    """A text of one line that no tag or special token can stand in.

    Every character that is or folds to < or > becomes ‹ or ›, so that </reminder> and <|eot_id|> are mere
    letters; line breaks and control characters become blanks; invisible ones (text can be hidden in them) go.
    """
    return " ".join("".join(map(_harmless, text)).split())


def _harmless(character: str) -> str:
    kind = unicodedata.category(character)
    if kind in ("Cc", "Zl", "Zp", "Cs"):
        return " "
    if kind in ("Cf", "Co", "Cn") and character not in _JOINERS:
        return ""
    folded = unicodedata.normalize("NFKD", character)
    if "<" in folded or ">" in folded:
        return "".join(_BRACKETS.get(part, part) for part in folded)
    return character
