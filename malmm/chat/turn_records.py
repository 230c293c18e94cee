"""Turns of a conversation as records of the long-term memory, and back.

All records of one turn are added in one transaction and share their time, by which they are found again:

    a picture or sound   the record of its content (modality vision or audio, with media), and its caption
    a question           the question (role user), linked by the sha256 to what it is about, and the answer
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from malmm.chat.session import Picture
from malmm.memory.media import read_media
from malmm.memory.record import Draft, Filters, Media, Modality, Record, Vector
from malmm.memory.store import MemoryStore

EVERY = 2**31 - 1  # a limit that is none


@dataclass(frozen=True)
class Place:
    """Where a turn belongs: whose it is, in which conversation, its number there, its time."""

    user: str
    conversation: str
    turn: int
    created: float

    def draft(
        self,
        text: str,
        embedding: Vector,
        role: str = "user",
        modality: Modality = "text",
        media: Media | None = None,
    ) -> Draft:
        """A record of this turn."""
        return Draft(
            user=self.user,
            text=text,
            embedding=embedding,
            modality=modality,
            role=role,
            conversation=self.conversation,
            turn=self.turn,
            media=media,
            created=self.created,
        )


@dataclass(frozen=True)
class PastTurn:
    """A turn read back: something seen or heard with its caption, or a question with its answer."""

    seen: Record | None
    said: Record | None
    """The caption or the question."""
    answer: Record | None


def read_turns(store: MemoryStore, user: str, conversation: str) -> list[PastTurn]:
    """The turns of a conversation, oldest first, as far as they are remembered.

    Records that were merged when the user's budget was reached are read as they were before.
    """
    kept = store.records(user, Filters(conversation=conversation), EVERY, newest_first=False)
    records = [one for record in kept for one in _unmerged(store, record) if one.turn is not None]
    records.sort(key=lambda record: (record.created, record.id))
    return [_turn(list(group)) for _, group in groupby(records, key=lambda record: record.created)]


def _unmerged(store: MemoryStore, record: Record) -> Sequence[Record]:
    return store.merged(record.user, record.id) if record.size > 1 else [record]


def _turn(records: Sequence[Record]) -> PastTurn:
    return PastTurn(
        seen=next((record for record in records if record.modality != "text"), None),
        said=next((record for record in records if _is_said(record)), None),
        answer=next((record for record in records if record.role == "assistant"), None),
    )


def _is_said(record: Record) -> bool:
    return record.modality == "text" and record.role == "user"


def same_turn(store: MemoryStore, record: Record) -> list[Record]:
    """What belongs to one turn with a record, itself included."""
    if record.turn is None:
        return [record]
    moment = Filters(
        conversation=record.conversation,
        after=record.created,
        before=float(np.nextafter(record.created, np.inf)),
    )
    return [one for one in store.records(record.user, moment, EVERY) if one.turn == record.turn]


def caption_of(store: MemoryStore, seen: Record) -> Record | None:
    """The record of the caption that a picture or sound was shown with."""
    return next((one for one in same_turn(store, seen) if _is_said(one)), None)


def seen_with(store: MemoryStore, record: Record) -> Record | None:
    """What a caption is the caption of; None for a record that is no caption."""
    if not _is_said(record):
        return None
    return next((one for one in same_turn(store, record) if one.modality != "text"), None)


def with_captions(store: MemoryStore, user: str, ids: Sequence[int]) -> list[int]:
    """These records of the user, with the captions of pictures and sounds, and what captions are of."""
    records = store.get(user, ids)
    found = {record.id for record in records}
    for record in records:
        turn = same_turn(store, record)
        if any(one.modality != "text" for one in turn):
            found |= {one.id for one in turn}
    return sorted(found)


def find_by_digest(store: MemoryStore, user: str, digest: str) -> Record | None:
    """The user's newest picture or sound whose file has this sha256."""
    found = (
        record
        for modality in ("vision", "audio")
        for record in store.records(user, Filters(modality=modality), EVERY)
        if record.media is not None and record.media.sha256 == digest
    )
    return next(found, None)


@contextmanager
def media_of(item: Picture, copied: bool) -> Iterator[Media]:
    """What a record says of a file, or of a picture that has none.

    Within the block a picture without a file lies in one, so that the store can copy it. Raises InputError
    for a file that cannot be read.
    """
    if not isinstance(item, Image.Image):
        yield read_media(Path(item).resolve(), copied)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        item.save(path)
        yield read_media(path.resolve(), copied)
