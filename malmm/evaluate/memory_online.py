"""Living through conversations with a store: everything is remembered as it happens, every question is asked
when it comes, and of what comes later nothing is there yet."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from malmm.data.memory_life import Item, MemoryQuestion, MemoryUser
from malmm.evaluate.memory_answers import Heard
from malmm.evaluate.memory_embeddings import Embeddings
from malmm.evaluate.memory_rows import MEMORY, TURNS, Asked, Find
from malmm.memory.recall import Recall
from malmm.memory.record import Draft, Filters, Media, Record
from malmm.memory.settings import MemorySettings
from malmm.memory.store import MemoryStore

DEEPEST = 10  # items of a ranking that are looked at
PICTURES = Filters(modality="vision", role="user")


def for_evaluation(settings: MemorySettings) -> MemorySettings:
    """The settings without what an evaluation cannot have: merged records, copied media, this machine's zone.

    The days of the generated conversations are those of UTC.
    """
    recall = replace(settings.recall, timezone=settings.recall.timezone or "UTC")
    return replace(settings, recall=recall, budget=0, copy_media=False, rate_saliency=False)


@dataclass(frozen=True)
class Found:
    """What a row finds for a question."""

    items: list[str]
    """Ids of the items that the records belong to, each once, best first, at most `DEEPEST`."""
    records: Sequence[Record]
    picture: Record | None
    """The best of the user's pictures."""


@dataclass(frozen=True)
class Situation:
    """A question at its moment."""

    user: str
    question: MemoryQuestion
    now: float
    found: Mapping[str, Found]
    """By row."""
    evidence: Found
    heard: Sequence[Heard]
    """What a memory bank that knows no end of a conversation holds: the last turns."""
    present: Heard | None
    """The picture that was shown last in this conversation, with its caption."""


class Online:
    """A store that is filled as conversations go on, and the rows that are asked on the way."""

    def __init__(
        self,
        store: MemoryStore,
        embeddings: Embeddings,
        settings: MemorySettings,
        rows: Mapping[str, Find],
        folder: Path | None = None,
    ) -> None:
        """folder: where the users' pictures lie. Accesses are counted of what the row `memory` finds."""
        self.store, self.embeddings, self.settings, self.rows = store, embeddings, settings, rows
        self.folder = folder
        self.recall = Recall(store, embeddings, settings)

    def live(self, user: MemoryUser) -> Iterator[Situation]:
        """The user's questions in the order of time, each with what was found for it."""
        self._item_of: dict[int, str] = {}  # of each record
        self._heard: list[Heard] = []
        self._present: Heard | None = None
        self._said = ""
        conversation = ""
        for event in user.timeline():
            if event.conversation != conversation:
                conversation, self._present = event.conversation, None
            if isinstance(event, Item):
                self._remember(user.name, event)
            else:
                yield self._ask(user.name, event)

    def _remember(self, user: str, item: Item) -> None:
        text = self.embeddings.embed_text(item.text)
        draft = Draft(
            user=user,
            text=item.text,
            embedding=text,
            role=item.role,
            conversation=item.conversation,
            turn=item.turn,
            created=item.time,
        )
        drafts = [draft]
        if item.picture is not None and self.folder is not None:
            path = self.folder / item.picture
            vision = self.embeddings.embed_image(path)
            # The picture and its caption are records of one turn, as the chat keeps them.
            shown = replace(draft, embedding=vision, modality="vision", media=Media(str(path), item.id))
            drafts = [shown, draft]
            self._present = Heard(vision, text)
            self._heard.append(self._present)
        elif item.role == "assistant" and self._present is not None:  # what was said before it was a question
            self._heard.append(Heard(self._present.vision, self.embeddings.embed_text(self._said)))
        self._said = item.text
        for record in self.recall.remember_all(drafts):
            self._item_of[record.id] = item.id

    def _ask(self, user: str, question: MemoryQuestion) -> Situation:
        asked = Asked(user, question.text, self.embeddings.embed_text(question.text), question.time)
        found: dict[str, Found] = {}
        for row, find in self.rows.items():
            records = find(asked, 2 * DEEPEST, Filters())
            pictures = find(asked, 1, PICTURES) if question.cue else []
            found[row] = self._found(records, pictures)
        recalled = found[MEMORY].records[: self.settings.recall.k]
        evidence = [
            record
            for record in self.store.get(user, list(self._item_of))
            if self._item_of[record.id] in question.evidence
        ]
        shown = [record for record in evidence if record.modality == "vision"]
        situation = Situation(
            user,
            question,
            question.time,
            found,
            self._found(evidence, shown),
            tuple(self._heard[-TURNS:]),
            self._present,
        )
        self.store.touch(user, [record.id for record in recalled], question.time)
        return situation

    def _found(self, records: Sequence[Record], pictures: Sequence[Record]) -> Found:
        items = list(dict.fromkeys(self._item_of[record.id] for record in records))
        return Found(items[:DEEPEST], records, next(iter(pictures), None))
