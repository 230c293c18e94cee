"""A user's life in the memory world (memory_world.py): conversations on different days, and what is asked."""

import datetime
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from malmm.data.memory_topics import (
    NAMES,
    RELATIONS,
    Fact,
    Topic,
    changed,
    make_fact,
    make_topic,
    near_miss,
    small_talk,
)
from malmm.data.mini_dialogue import make_dialogue

FORMAT_VERSION = 1  # of the generated world: another number, another world
DAY = 86400.0
Role = Literal["user", "assistant"]
KINDS = ("picture", "picture changed", "picture when", "told", "told changed", "never")

_START = datetime.datetime(2026, 1, 5, 9, tzinfo=datetime.UTC).timestamp()  # a Monday
_GAPS = (1, 1, 2, 4, 7, 7)  # days between two conversations
_SECONDS = 30.0  # between two items of a conversation
_PICTURES, _FACTS, _TALKS, _ROUNDS = 3, 3, 2, 1  # of a conversation; rounds of a picture
_PEOPLE = 6  # of a user
_AGAIN, _NEAR = 0.35, 0.3  # shares of the pictures that show an earlier scene changed, or one near to it
_AGAIN_TOLD = 0.35
_ASKED_BEFORE = 0.5  # how much likelier each earlier question makes it that the same is asked again


@dataclass(frozen=True)
class Item:
    """What becomes a record: a picture with its caption, or a sentence."""

    id: str
    conversation: str
    turn: int
    time: float
    role: Role
    text: str
    picture: str | None = None  # the file below the world's folder


@dataclass(frozen=True)
class MemoryQuestion:
    """A question at the end of a conversation.

    conversations, records: how far back the evidence lies, counted in conversations and in items; 0 where
    there is none, as `answer` is None then.
    """

    id: str
    conversation: str
    time: float
    kind: str
    cue: str  # empty for what was told
    question: str
    answer: str | None = None
    evidence: tuple[str, ...] = ()
    conversations: int = 0
    records: int = 0

    @property
    def text(self) -> str:
        """The whole of what the user asks: the memory is searched with it."""
        return f"{self.cue}, {self.question}" if self.cue else self.question


@dataclass(frozen=True)
class MemoryUser:
    """The items and questions of a user, each in the order of time."""

    name: str
    items: list[Item]
    questions: list[MemoryQuestion]

    def timeline(self) -> Iterator[Item | MemoryQuestion]:
        """Both, in the order of time."""
        events: list[Item | MemoryQuestion] = [*self.items, *self.questions]
        yield from sorted(events, key=lambda event: event.time)


@dataclass
class _Known:
    """A scene or a fact: its versions, each with the item that gave it and its conversation."""

    versions: list[tuple[Item, int, Topic | Fact]] = field(default_factory=list)
    asked: int = 0

    def add(self, item: Item, conversation: int, what: Topic | Fact) -> None:
        self.versions.append((item, conversation, what))

    @property
    def last(self) -> int:
        """The conversation of the newest version."""
        return self.versions[-1][1]


Option = tuple[_Known, int, str]  # what may be asked, its right version, what the question says of time


class _Life:
    """A user whose conversations are being written."""

    def __init__(self, name: str, conversations: int, questions: int, seed: int) -> None:
        self.rng = random.Random(f"memory world {FORMAT_VERSION}, {seed}, {name}")
        self.name, self.per_conversation = name, questions
        self.items: list[Item] = []
        self.questions: list[MemoryQuestion] = []
        self.scenes: list[_Known] = []
        self.facts: dict[tuple[str, str], _Known] = {}
        self.pictures: dict[str, Topic] = {}  # file -> the scene on it
        self.nameable: list[_Known] = []  # what can be asked for at the end of this conversation
        self.people = self.rng.sample(NAMES, _PEOPLE)
        self.now, self.number = _START, 0
        for self.number in range(conversations):
            self._talk()
            if self.number:
                self._ask()
            days = self.rng.choice(_GAPS)
            self.now = self.now - self.now % DAY + days * DAY + 9 * 3600 + self.rng.randrange(8 * 3600)

    @property
    def conversation(self) -> str:
        """The name of the conversation that is being held."""
        return f"{self.name}-c{self.number:02d}"

    # -- what is said and shown ----------------------------------------------------------------------

    def _talk(self) -> None:
        acts = [self._show] * _PICTURES + [self._tell] * _FACTS + [self._chat] * _TALKS
        self.rng.shuffle(acts)
        for act in acts:
            act()

    def _add(self, text: str, role: Role = "user", picture: bool = False) -> Item:
        turn = sum(item.conversation == self.conversation for item in self.items)
        name = f"{self.conversation}-{turn:02d}"
        file = f"pictures/{name}.png" if picture else None
        item = Item(name, self.conversation, turn, self.now, role, text, file)
        self.items.append(item)
        self.now += _SECONDS
        return item

    def _show(self) -> None:
        earlier = [known for known in self.scenes if known.last < self.number]
        chance = self.rng.random() if earlier else 1.0
        known, topic = _Known(), make_topic(self.rng)
        if chance < _AGAIN + _NEAR:
            old = self.rng.choice(earlier)
            scene = old.versions[-1][2]
            assert isinstance(scene, Topic)
            topic = changed(scene, self.rng) if chance < _AGAIN else near_miss(scene, self.rng)
            known = old if chance < _AGAIN else known
        dialogue = make_dialogue(topic.scene, self.rng)
        item = self._add(dialogue.caption, picture=True)
        # Nothing of the conversation gives away what is asked later: the picture is the only evidence.
        rounds = [r for r in dialogue.rounds if r.depends_on < 0 and r.referent != topic.thing]
        for round_ in rounds[:_ROUNDS]:
            self._add(round_.question)
            self._add(round_.answer, "assistant")
        if not known.versions:
            self.scenes.append(known)
        known.add(item, self.number, topic)
        self.pictures[item.picture or ""] = topic

    def _tell(self) -> None:
        earlier = [key for key, known in self.facts.items() if known.last < self.number]
        free = [(p, r) for p in self.people for r in RELATIONS if (p, r) not in self.facts]
        again = bool(earlier) and (not free or self.rng.random() < _AGAIN_TOLD)
        if not again and not free:
            return self._chat()
        key = self.rng.choice(earlier if again else free)
        known = self.facts.setdefault(key, _Known())
        old = known.versions[-1][2] if again else None
        fact = make_fact(*key, self.rng, other_than=old.value if isinstance(old, Fact) else -1)
        item = self._add(f"now {fact.statement}" if again else fact.statement)
        return known.add(item, self.number, fact)

    def _chat(self) -> None:
        self._add(small_talk(self.people, self.rng))

    # -- what is asked -------------------------------------------------------------------------------

    def _ask(self) -> None:
        everything = [*self.scenes, *self.facts.values()]
        self.nameable = [known for known in everything if known.last < self.number and self._only(known)]
        start = self.rng.randrange(len(KINDS))
        asked: set[str] = set()  # nothing is asked twice in one conversation
        for number in range(self.per_conversation):
            kind = KINDS[(start + number) % len(KINDS)]
            others = self.rng.sample(KINDS[:-1], len(KINDS) - 1)
            question = next(
                question
                for name in itertools.chain((kind, *others), itertools.repeat("never"))
                if (question := self._question(name)) is not None and question.text not in asked
            )
            asked.add(question.text)
            self.questions.append(question)
            self.now += _SECONDS

    def _question(self, kind: str) -> MemoryQuestion | None:
        """A question of this kind, to which an earlier conversation has the answer; None: there is none."""
        if kind == "never":
            return self._never()
        options = self._options(kind)
        if not options:
            return None
        weights = [1 + _ASKED_BEFORE * known.asked for known, _, _ in options]
        known, version, when = self.rng.choices(options, weights)[0]
        known.asked += 1
        item, number, what = known.versions[version]
        cue, question = "", what.question
        if isinstance(what, Topic):
            cue = f"{what.cue}{when}"
        elif when:
            question = f"{question} now"
        distance = self.number - number, len(self.items) - self.items.index(item)
        name = f"{self.conversation}-q{len(self.questions):03d}"
        return MemoryQuestion(
            name, self.conversation, self.now, kind, cue, question, what.answer, (item.id,), *distance
        )

    def _options(self, kind: str) -> list[Option]:
        sort = Fact if kind.startswith("told") else Topic
        nameable = [known for known in self.nameable if isinstance(known.versions[-1][2], sort)]
        if kind == "picture when":
            dated = [option for known in nameable for option in self._dated(known)]
            chosen = self.rng.choice(sorted({when for _, _, when in dated})) if dated else ""
            return [option for option in dated if option[2] == chosen]
        if kind.endswith("changed"):
            again = [known for known in nameable if len(known.versions) > 1]
            return [(known, len(known.versions) - 1, ", as it is now") for known in again]
        return [(known, 0, "") for known in nameable if len(known.versions) == 1]

    def _only(self, known: _Known) -> bool:
        """Whether a scene's cue fits its own pictures only; a fact has no cue and is always told apart."""
        topic = known.versions[-1][2]
        if isinstance(topic, Fact):
            return True
        own = {item.picture for item, _, _ in known.versions}
        return not any(topic.fits(shown.scene) for file, shown in self.pictures.items() if file not in own)

    def _dated(self, known: _Known) -> list[Option]:
        """Of a scene that was shown repeatedly, each version that words for its day tell from the others."""
        days = [_day(item.time) for item, _, _ in known.versions]
        options: list[Option] = []
        for words, (first, last) in _periods(_day(self.now)).items():
            within = [version for version, day in enumerate(days) if first <= day <= last]
            if len(within) == 1 and len(days) > 1:
                options.append((known, within[0], f" that i showed you {words}"))
        return options

    def _never(self) -> MemoryQuestion | None:
        """A question whose answer was never given."""
        name = f"{self.conversation}-q{len(self.questions):03d}"
        if self.rng.random() < 0.5:
            unknown = [(p, r) for p in self.people for r in RELATIONS if (p, r) not in self.facts]
            if not unknown:
                return None
            fact = make_fact(*self.rng.choice(unknown), self.rng)
            return MemoryQuestion(name, self.conversation, self.now, "never", "", fact.question)
        topic = make_topic(self.rng)
        while any(topic.fits(shown.scene) for shown in self.pictures.values()):
            topic = make_topic(self.rng)
        return MemoryQuestion(name, self.conversation, self.now, "never", topic.cue, topic.question)


def _day(time: float) -> datetime.date:
    return datetime.datetime.fromtimestamp(time, datetime.UTC).date()


def _periods(today: datetime.date) -> dict[str, tuple[datetime.date, datetime.date]]:
    """What words for a day or days mean, first and last day: weeks begin on Monday."""
    one = datetime.timedelta(1)
    monday, first = today - today.weekday() * one, today.replace(day=1)
    return {
        "yesterday": (today - one, today - one),
        "last week": (monday - 7 * one, monday - one),
        "last month": ((first - one).replace(day=1), first - one),
    }


def make_user(
    number: int, conversations: int, questions: int, seed: int
) -> tuple[MemoryUser, dict[str, Topic]]:
    """A user of the world with this seed, and the topics whose scenes are on the pictures, by their files."""
    life = _Life(f"u{number:02d}", conversations, questions, seed)
    return MemoryUser(life.name, life.items, life.questions), life.pictures
