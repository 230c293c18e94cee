"""The side panel's HTML: memories behind an answer, slots of the memory bank, the list of memories.

Everything that somebody typed or a model wrote passes through `escape`.
"""

from collections.abc import Sequence
from datetime import datetime
from html import escape

from malmm.chat.conversations import Answer
from malmm.chat.session import Slot
from malmm.memory.recall import Recalled
from malmm.memory.record import Record

TERMS = ("relevance", "recency", "frequency", "saliency")
USES = {"seen": "before the model", "read": "read by the model", "named": "used in the answer"}
UNITS = (("year", 365 * 86400), ("month", 30 * 86400), ("day", 86400), ("hour", 3600), ("minute", 60))
ICONS = {"text": "✎", "vision": "▣", "audio": "♪", "video": "▶"}


def why(answers: Sequence[Answer], now: float) -> str:
    """The memories behind each answer, the newest first and open."""
    if not answers:
        return _empty("What an answer was recalled from appears here, with the terms of its score.")
    return "".join(_answer(answer, now, number == 0) for number, answer in enumerate(reversed(answers)))


def bank(slots: Sequence[Slot]) -> str:
    """The memory bank's slots, oldest first, and the turns that were merged into each."""
    if not slots:
        return _empty("The memory bank is empty: show a picture.")
    rows = []
    for slot in slots:
        turns = "".join(
            f'<li><span class="turn">{turn.number}</span>{escape(turn.kind)}: {escape(turn.text)}'
            f'<span class="soft"> · {escape(turn.picture)}</span></li>'
            for turn in slot.turns
        )
        merged = f'<span class="tag">{len(slot.turns)} turns merged</span>' if slot.merged else ""
        rows.append(
            f'<section class="slot"><header>slot {slot.number}{merged}</header><ul>{turns}</ul></section>'
        )
    return (
        f'<p class="soft">{_count(len(slots), "slot")} of this conversation, oldest first.</p>{"".join(rows)}'
    )


def memories(records: Sequence[Record], now: float, search: str = "", more: bool = False) -> str:
    """The list of memories, each with its buttons. more: the user has others that are not in it."""
    if not records:
        return _empty("No memory fits the search." if search.strip() else "Nothing is remembered yet.")
    shown = _count(len(records), "memory", "memories")
    order = "the best first" if search.strip() else "the newest first"
    note = "; a search finds the others" if more and not search.strip() else ""
    return f'<p class="soft">{shown}, {order}{note}</p>' + "".join(_listed(one, now) for one in records)


def ago(seconds: float) -> str:
    """How long ago, in words."""
    for unit, length in UNITS:
        if seconds >= length:
            return f"{_count(int(seconds // length), unit)} ago"
    return "just now"


def _answer(answer: Answer, now: float, newest: bool) -> str:
    found = "".join(
        _recalled(item, number, answer.uses[item.record.id], now)
        for number, item in enumerate(answer.memories, 1)
    )
    gate = next((item.gate for item in answer.memories if item.gate != "none"), "")
    asked = f'<p class="soft">The question asks about a time: {escape(gate)}.</p>' if gate else ""
    return (
        f'<details class="answer"{" open" if newest else ""}><summary>{escape(answer.question)}'
        f'<span class="soft">{escape(answer.text)}</span></summary>'
        f"{asked}{found or _empty('No memory was found for this question.')}</details>"
    )


def _recalled(item: Recalled, number: int, use: str, now: float) -> str:
    record = item.record
    used = f'<span class="tag used">{USES[use]}</span>' if use in USES else ""
    bars = "".join(_bar(name, getattr(item.terms, name)) for name in TERMS)
    words = "" if item.text_score is None else f'<span class="tag">words {item.text_score:.2f}</span>'
    return (
        f'<article class="memory" data-id="{record.id}"><header><span class="rank">{number}</span>'
        f"{_source(record, now)}{used}{words}</header>{_body(record)}"
        f'<div class="bars">{bars}</div></article>'
    )


def _bar(name: str, value: float) -> str:
    percent = round(100 * min(max(value, 0.0), 1.0))
    return (
        f'<span>{name}</span><div class="bar" role="meter" aria-label="{name}" aria-valuemin="0" '
        f'aria-valuemax="1" aria-valuenow="{value:.2f}"><i style="width:{percent}%"></i></div>'
        f"<span>{value:.2f}</span>"
    )


def _listed(record: Record, now: float) -> str:
    id = record.id
    pin = "unpin" if record.pinned else "pin"
    merged = f'<span class="tag">{record.size} merged</span>' if record.size > 1 else ""
    pinned = '<span class="tag pinned">pinned</span>' if record.pinned else ""
    recalled = f'<span class="soft">recalled {_count(record.access_count, "time")}</span>'
    return (
        f'<article class="memory{" is-pinned" if record.pinned else ""}" data-id="{id}">'
        f"<header>{_source(record, now)}{pinned}{merged}</header>{_body(record)}"
        f'<footer>{recalled}<span class="buttons">'
        f'<button type="button" data-act="{pin}" data-id="{id}">{pin.capitalize()}</button>'
        f'<button type="button" data-ask="{id}">Delete</button></span>'
        f'<span class="confirm" hidden>Forget this for good?'
        f'<button type="button" class="danger" data-act="delete" data-id="{id}">Delete</button>'
        f'<button type="button" data-keep="{id}">Keep</button></span></footer></article>'
    )


def _source(record: Record, now: float) -> str:
    when = datetime.fromtimestamp(record.created).astimezone()
    return (
        f'<span class="kind" title="{record.modality}">{ICONS[record.modality]}</span>'
        f"<span>{'you' if record.role == 'user' else 'malmm'}</span>"
        f'<time class="soft" title="{when:%Y-%m-%d %H:%M}">{ago(now - record.created)}</time>'
    )


def _body(record: Record) -> str:
    address = f"/media/{record.id}"
    text = f"<p>{escape(record.text)}</p>" if record.text else ""
    if record.media is None or record.modality == "text":
        return text
    if record.modality == "vision":
        return f'<div class="with-picture"><img src="{address}" alt="" loading="lazy">{text}</div>'
    player = "audio" if record.modality == "audio" else "video"
    return f'{text}<{player} controls preload="none" src="{address}"></{player}>'


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _empty(text: str) -> str:
    return f'<p class="empty">{text}</p>'
