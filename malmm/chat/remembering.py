"""A conversation with a long-term memory: what is shown and said is kept, and found when it is asked for."""

import secrets
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from extraction.encoder import Encoder
from malmm.chat.embedder import Embedder
from malmm.chat.picture_recall import choose_picture
from malmm.chat.reader import CausalReader
from malmm.chat.session import ChatSession, Kind, Moment, Picture, name_of
from malmm.chat.turn_records import (
    Place,
    caption_of,
    find_by_digest,
    media_of,
    read_turns,
    seen_with,
    with_captions,
)
from malmm.chat.user_name import check_user
from malmm.chat.writing import Answered, Writing
from malmm.errors import InputError
from malmm.memory.recall import Recall, Recalled
from malmm.memory.record import Draft, Media, Modality, Record, Vector
from malmm.memory.settings import MemorySettings
from malmm.memory.store import MemoryStore
from malmm.models.dialogue import DialogueModel


class MemorySession(ChatSession):
    """One user's conversation, kept in a store as it goes.

    Each turn is durable when the method that makes it returns (`stream`: when it is exhausted); one that
    fails or is abandoned leaves nothing behind, in the store neither. Memories of other users are never seen.
    """

    def __init__(
        self,
        model: DialogueModel,
        encoder: Encoder,
        store: MemoryStore,
        user: str = "me",
        conversation: str | None = None,
        settings: MemorySettings | None = None,
        default_caption: str = "a picture",
        generation: dict[str, Any] | None = None,
        reader: CausalReader | None = None,
    ) -> None:
        """Join model, encoder and a store that was opened for this encoder.

        conversation: goes on where the one of this name stopped; None: a new one. reader: reasons over the
        reminders and rates memories, where the settings ask for it; None: the model's own language. Raises
        InputError for a user's name that is none, and for a model that reads embeddings of other lengths than
        the store keeps.
        """
        if not model.config.normalize:
            raise InputError(
                "model.normalize is false, but the long-term memory keeps embeddings at unit length: set it "
                "to true, or chat without --user and --store"
            )
        self.user = check_user(user)
        self.store = store
        self.embedder = Embedder(encoder)
        self._answered = Answered()
        super().__init__(model, encoder, default_caption, generation)
        self._nothing_seen = torch.zeros(1, 0, model.language.width)
        self.reader = reader
        self.recall = Recall(store, self.embedder, settings, reader or CausalReader(model.language))
        if conversation is not None:
            self.resume(conversation)

    @property
    def settings(self) -> MemorySettings:
        """What is recalled, and how."""
        return self.recall.settings

    def reset(self) -> None:
        """Begin a new conversation: an empty memory bank. The long-term memory stays as it is."""
        self.conversation = new_conversation()
        super().reset()

    def resume(self, conversation: str) -> None:
        """Go on with the conversation of this name: the bank is rebuilt, nothing encoded again."""
        if not conversation.strip():
            raise InputError("the conversation's name is empty: give it one")
        super().reset()
        self.conversation = conversation.strip()
        self._rebuild()

    # -- turns ---------------------------------------------------------------------------------------

    def show(self, picture: Picture, caption: str | None = None) -> None:
        """Look at a picture and remember it. Raises InputError as `ChatSession.show`."""
        text = self._caption(caption)
        vision = self.embedder.embed_image(picture)
        self._perceive_and_keep(picture, "vision", vision, text, _storable(caption or ""))

    def hear(self, sound: str | Path, caption: str | None = None) -> None:
        """Listen to a sound and remember it; from now on questions are about it, as about a picture.

        ImageBind puts sounds where it puts pictures that they belong to, so that a model of pictures can be
        asked about a sound. Raises InputError for a file that cannot be read, and where there is no audio
        tower.
        """
        text = self._caption(caption)
        vision = self.embedder.embed_audio(sound)
        self._perceive_and_keep(sound, "audio", vision, text, _storable(caption or ""))

    def _perceive_and_keep(
        self, item: Picture, modality: Modality, vision: Vector, text: str, caption: str
    ) -> None:
        embedded = self.embedder.embed_text(text)
        with media_of(item, self.settings.copy_media) as media:
            now = self._see(self._moment, modality, vision, text, embedded, name_of(item), media)
            place = self._place(len(self._moment.turns))
            drafts = [place.draft(caption, vision, modality=modality, media=media)]
            if caption:
                drafts.append(place.draft(caption, embedded))
            self.recall.remember_all(drafts)
        self._moment = now

    def _see(
        self,
        now: Moment,
        modality: Modality,
        vision: Vector,
        text: str,
        embedded: Vector,
        name: str,
        media: Media | None,
    ) -> Moment:
        """The conversation after something seen or heard."""
        kind: Kind = "sound" if modality == "audio" else "picture"
        moment = self._perceive(now, _row(vision), text, _row(embedded), name, kind)
        return replace(moment, digest="" if media is None else media.sha256)

    def stream(self, question: str) -> Generator[str]:
        """Answer a question piece by piece, with what is remembered; raises as `ChatSession.stream`.

        Where nothing has been shown yet, or the question is about an earlier picture rather than the present
        one, the remembered picture becomes a turn before the question.
        """
        text, question = self._question(question), _storable(question)
        embedding = self.embedder.embed_text(text)
        found = self.recall.search(question, self.user, embedding=embedding, explain=True, touch=False)
        picture = choose_picture(self.recall, self.user, question, embedding, self._moment.vision)
        now = self._moment if picture is None else self._see_again(self._moment, picture.record)
        if now.vision is None and self.settings.reflection.enabled:
            queries, heard = self._nothing_seen, now  # the reminders alone can answer, or nothing can
        else:
            queries, heard = self._listen(now, text, _row(embedding))
        writing = Writing(self.model, queries, text, found, self.settings, self.generation, self.reader)
        turn = len(heard.turns) - (heard is not now)
        asked = self._place(turn).draft(question, embedding, media=_link(heard))
        return self._answer(asked, writing, heard, Answered(tuple(found), picture))

    def _answer(self, asked: Draft, writing: Writing, heard: Moment, answered: Answered) -> Generator[str]:
        pieces: list[str] = []
        for piece in writing:
            pieces.append(piece)
            yield piece
        drafts = [asked]
        if answer := "".join(pieces).strip():
            drafts.append(
                replace(
                    asked,
                    text=answer,
                    embedding=self.embedder.embed_text(answer),
                    role="assistant",
                    media=None,
                )
            )
        records = self.recall.remember_all(drafts)
        self.store.touch(self.user, [item.record.id for item in answered.behind()])
        self._moment = heard
        self._answered = replace(
            answered,
            picture=answered.picture or self._still_there(),
            read=writing.read,
            named=writing.named,
            reasoning=writing.reasoning,
            problem=writing.problem,
            records=tuple(record.id for record in records),
        )

    def _still_there(self) -> Recalled | None:
        """The picture that came back for an earlier question and is before the model still."""
        picture = self._answered.picture
        media = picture.record.media if picture else None
        return picture if media and media.sha256 == self._moment.digest else None

    def _see_again(self, now: Moment, seen: Record) -> Moment:
        """The conversation after a remembered picture or sound came back, by its stored embeddings."""
        caption = caption_of(self.store, seen)
        text = self._clean(seen.text) or self.default_caption
        embedded = self.embedder.embed_text(text) if caption is None else caption.embedding
        name = Path(seen.media.path).name if seen.media else ""
        return self._see(now, seen.modality, seen.embedding, text, embedded, name, seen.media)

    # -- what is remembered --------------------------------------------------------------------------

    def tell(self, text: str) -> Record:
        """Remember a fact, pinned. The memory bank does not hear it."""
        text = _storable(text)
        if not text:
            raise InputError("there is nothing to remember: say what")
        return self.recall.remember(self.user, text, conversation=self.conversation, pinned=True)

    def pin_last(self) -> list[Record]:
        """Pin the last question and its answer. Raises InputError where there is none yet."""
        if not self._answered.records:
            raise InputError("nothing has been answered yet: say what to remember")
        for record in self._answered.records:
            self.store.update(self.user, record, pinned=True)
        return self.store.get(self.user, self._answered.records)

    def why(self) -> list[Recalled]:
        """The memories behind the last answer, with score terms: the picture that came back first."""
        return self._answered.behind()

    @property
    def answered(self) -> Answered:
        """The memories behind the last answer, and what the model had of each."""
        return self._answered

    def find(self, query: str, k: int | None = None) -> list[Recalled]:
        """The user's memories that a query finds, best first; a picture and its caption are one memory."""
        whole: dict[int, Recalled] = {}
        for item in self.recall.search(query, self.user, k, explain=True, touch=False, anything=True):
            record = seen_with(self.store, item.record) or item.record
            whole.setdefault(record.id, replace(item, record=record))
        return list(whole.values())

    def forget(self, ids: Sequence[int]) -> int:
        """Delete memories for good, media copies too -> how many records; the bank forgets them as well.

        A picture takes its caption along, a caption its picture.
        """
        number = self.store.delete(self.user, with_captions(self.store, self.user, ids))
        self._answered = Answered()
        super().reset()
        self._rebuild()
        return number

    # -- places in time ------------------------------------------------------------------------------

    def _rebuild(self) -> None:
        """Make the memory bank from the stored embeddings of this conversation's turns."""
        now = self._moment
        for turn in read_turns(self.store, self.user, self.conversation):
            if turn.seen is not None:
                now = self._see_again(now, turn.seen)
            elif turn.said is not None:
                now = self._hear_again(now, turn.said)
        self._moment = now

    def _hear_again(self, now: Moment, question: Record) -> Moment:
        if question.media is None:  # it was asked of the reminders alone
            return now
        if question.media.sha256 != now.digest:
            seen = find_by_digest(self.store, self.user, question.media.sha256)
            if seen is None:  # what it was about is forgotten
                return now
            now = self._see_again(now, seen)
        _, heard = self._listen(now, self._clean(question.text), _row(question.embedding))
        return heard

    def _place(self, turn: int) -> Place:
        """Where a turn that is being made belongs."""
        return Place(self.user, self.conversation, turn, time.time())


def new_conversation() -> str:
    """A name that no other conversation has, by the local time: `2026-11-22 14.05.09 3fa9`."""
    return f"{datetime.now():%Y-%m-%d %H.%M.%S} {secrets.token_hex(2)}"


def _link(heard: Moment) -> Media | None:
    """What a question is about, by its hash alone: no path outlives a picture that is forgotten."""
    return Media("", heard.digest) if heard.digest else None


def _row(vector: Vector) -> Tensor:
    """[C] -> [1, C]."""
    return torch.from_numpy(vector)[None]


def _storable(text: str) -> str:
    """Without blanks around it and what is no Unicode."""
    return text.encode("utf-8", "replace").decode().strip()
