"""Remembering and recalling: from texts, pictures and sounds to records of a store, and back."""

import mimetypes
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from malmm.errors import InputError
from malmm.memory.gate import NO_GATE, read_gate
from malmm.memory.media import read_media
from malmm.memory.novelty import saliency
from malmm.memory.ranking import Asked, Explanation, Recalled, rank
from malmm.memory.record import Draft, Filters, Modality, Query, Record, Vector
from malmm.memory.settings import MemorySettings
from malmm.memory.store import ALL, MemoryStore

if TYPE_CHECKING:
    from PIL.Image import Image

    from malmm.memory.reflection import Reader

__all__ = ["Embedder", "Explanation", "Recall", "Recalled"]


class Embedder(Protocol):
    """Embeds into the one space of texts, pictures, sounds and films: float32 [C], each of unit length."""

    def embed_text(self, text: str) -> Vector:
        """Of a text."""
        ...

    def embed_image(self, picture: "str | Path | Image") -> Vector:
        """Of a picture. Raises InputError naming a file that cannot be read, as the next two do."""
        ...

    def embed_audio(self, path: str | Path) -> Vector:
        """Of a sound."""
        ...

    def embed_video(self, path: str | Path) -> Vector:
        """Of a film, without its sound."""
        ...


class Recall:
    """The long-term memory of many users over one store."""

    def __init__(
        self,
        store: MemoryStore,
        embedder: Embedder,
        settings: MemorySettings | None = None,
        reader: "Reader | None" = None,
    ) -> None:
        """Join a store and what embeds into it.

        reader: rates what is remembered, where `settings.rate_saliency` asks for it. Raises InputError where
        it does and there is none.
        """
        self.store = store
        self.embedder = embedder
        self.settings = settings or MemorySettings()
        self.reader = reader
        if self.settings.rate_saliency and reader is None:
            raise InputError(
                "memory.rate_saliency is true but no language model is at hand that could rate: set it to "
                "false"
            )

    # -- remembering ---------------------------------------------------------------------------------

    def remember(
        self,
        user: str,
        text: str,
        *,
        modality: Modality = "text",
        media: str | Path | None = None,
        embedding: Vector | None = None,
        conversation: str = "",
        turn: int | None = None,
        role: str = "user",
        now: float | None = None,
        pinned: bool = False,
    ) -> Record:
        """Store one memory of a user; it is durable when this returns.

        embedding: [C], of the media where there is one, else of the text; None: it is made here. media: the
        file that it is about, copied into the store if `settings.copy_media`. now: when it happened, in
        seconds since the epoch. Above `settings.budget` the user's most alike neighbours are merged, to a
        twentieth below it; where that takes the new record too, the one that it became part of is returned.
        Raises InputError for media that cannot be read, and for a modality that needs media and has none.
        """
        if embedding is None:
            if media is None and modality != "text":
                raise InputError(f"a memory of modality {modality} needs its file or its embedding: give one")
            embedding = self._embed(media if media is not None else text, modality)
        draft = Draft(
            user=user,
            text=text,
            embedding=embedding,
            modality=modality,
            role=role,
            conversation=conversation,
            turn=turn,
            media=None if media is None else read_media(Path(media), self.settings.copy_media),
            created=now,
            pinned=pinned,
        )
        return self.remember_all([draft])[0]

    def remember_all(self, drafts: Sequence[Draft]) -> list[Record]:
        """Store memories of one user in one transaction, all of a turn or none of it; see `remember`.

        A draft without a saliency gets one (novelty.py).
        """
        user = drafts[0].user
        salient = [draft if draft.saliency > 0 else self._with_saliency(draft) for draft in drafts]
        records = self.store.get(user, self.store.add(salient))
        if not 0 < self.settings.budget < self.store.count(user):
            return records
        # A twentieth below it: merging reads all of a user's vectors, so it is done once for many records.
        self.store.merge(user, self.settings.budget - self.settings.budget // 20)
        return [self._what_became_of(record) for record in records]

    def _with_saliency(self, draft: Draft) -> Draft:
        rating = self.settings.reflection.templates.rating
        reader = self.reader if self.settings.rate_saliency else None
        now = time.time() if draft.created is None else draft.created
        return replace(draft, saliency=saliency(self.store, draft, now, reader, rating))

    def _what_became_of(self, record: Record) -> Record:
        """The record after a merge: itself, or the neighbour before it in time that took it in."""
        if found := self.store.get(record.user, [record.id]):
            return found[0]
        until = Filters(modality=record.modality, pinned=False, before=np.nextafter(record.created, np.inf))
        return next(iter(self.store.records(record.user, until, limit=1)), record)

    def _embed(self, item: "str | Path | Image", modality: Modality) -> Vector:
        if modality == "text":
            return self.embedder.embed_text(str(item))
        if modality == "vision":
            return self.embedder.embed_image(item)
        if not isinstance(item, str | Path):
            raise InputError(f"a memory of modality {modality} needs a file: give its path")
        return self.embedder.embed_audio(item) if modality == "audio" else self.embedder.embed_video(item)

    # -- recalling -----------------------------------------------------------------------------------

    def search(
        self,
        query: "str | Path | Image | Vector",
        user: str,
        k: int | None = None,
        filters: Filters = ALL,
        as_of: float | None = None,
        explain: bool = False,
        touch: bool = True,
        *,
        embedding: Vector | None = None,
        modality: Modality | None = None,
        exclude: Collection[int] = (),
        words: bool = True,
        anything: bool = False,
    ) -> list[Recalled]:
        """The user's k memories (None: `settings.recall.k`) that answer a query best, best first.

        query: a text, by its embedding and its words; a Path of a picture, sound or film, or a PIL picture,
        by content; an embedding [C]. as_of: seconds since the epoch; only what was created before it is seen,
        ages are counted from it, and nothing is touched. Otherwise, with `touch`, each found record counts
        one more access. embedding: of the query, where the caller has it already. modality: what the query
        is; None: told by its type and suffix, text for an embedding. exclude: ids that are not to be found.
        words: false: a text's words say only which time is asked for. anything: without it nothing is found
        for a question in words that no memory is like (`settings.recall.known_words`).
        """
        asked = self._read(query, user, filters, as_of, embedding, modality, exclude)
        # In a second pass the model itself reads what is found and says whether it is nothing.
        anything = anything or self.settings.reflection.second_pass
        asked = replace(asked, text=asked.text if words else "", anything=anything)
        found = rank(self.store, asked, self.settings.recall, k or self.settings.recall.k, explain)
        if touch and as_of is None and found:
            self.store.touch(user, [item.record.id for item in found], asked.query.now)
        return found

    def _read(
        self,
        query: "str | Path | Image | Vector",
        user: str,
        filters: Filters,
        as_of: float | None,
        embedding: Vector | None,
        modality: Modality | None,
        exclude: Collection[int],
    ) -> Asked:
        """What is asked, with the words of time read and the query embedded."""
        settings = self.settings
        text = query if isinstance(query, str) else ""
        kind = modality or _modality_of(query)
        if isinstance(query, np.ndarray):
            vector = query
        else:
            vector = embedding if embedding is not None else self._embed(query, kind)
        now = time.time() if as_of is None else as_of
        if as_of is not None:
            filters = replace(filters, before=as_of if filters.before is None else min(as_of, filters.before))
        gate = read_gate(text, now, settings.recall.zone) if settings.recall.gate else NO_GATE
        asked = Query(
            embedding=_unit(vector),
            user=user,
            now=now,
            k=settings.recall.candidates + len(exclude),
            weights=gate.weights(settings.scoring.weights()),
            filters=filters,
        )
        return Asked(asked, text, kind, gate, exclude)


def _modality_of(query: "str | Path | Image | Vector") -> Modality:
    if isinstance(query, str | np.ndarray):
        return "text"
    if not isinstance(query, Path):
        return "vision"
    kinds: dict[str, Modality] = {"image": "vision", "audio": "audio", "video": "video"}
    kind = (mimetypes.guess_type(query.name)[0] or "").partition("/")[0]
    if kind not in kinds:
        raise InputError(f"{query} is no picture, sound or film by its suffix: rename it, or say what it is")
    return kinds[kind]


def _unit(vector: Vector) -> Vector:
    """The vector [C] at unit length. Raises InputError where it has no direction."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not 0 < length < np.inf:
        raise InputError("the query's embedding is zero or not finite: it points nowhere")
    return (vector / length).astype(np.float32)
