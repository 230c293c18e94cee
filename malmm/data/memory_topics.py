"""What the memory world asks for later: an object of a scene that its other objects name, or a told fact.

A scene is named by what it shows beside the object in question ("in the picture with a red circle and two
green stars"), so that the name tells nothing of the answer. A fact is a relation of a person ("anna painted
the door blue"). Both can change: then the newest holds.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from malmm.data.mini_questions import ATTRIBUTE_QUESTIONS, a
from malmm.data.mini_scene import (
    COLORS,
    PICTURE_SIZE,
    PLACES,
    SHAPES,
    Scene,
    SceneObject,
    make_scene,
)
from malmm.data.mini_talk import PLACE_PHRASES, Sort, Talk

ATTRIBUTES = ("color", "shape", "place")
NAMES = (
    "anna", "ben", "clara", "david", "emma", "felix", "greta", "henry", "ida", "jonas", "karin", "leo",
    "mara", "nils", "olga", "paul",
)  # fmt: skip
_PAIRS = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
_NUMBERS = tuple(str(number) for number in range(2, 10))
_COUNT_WORDS = {2: "two", 3: "three"}
_TALK = (
    "hello again", "good morning", "it rains today", "i slept well", "this is fun", "thank you very much",
    "i like pictures with many shapes", "i saw a red car today", "the town was full of people",
    "i painted a blue star for fun", "there was a large square in the town", "we had green soup",
    "{} called me this morning", "i met {} in the town", "{} says hello", "{} was here with {}",
)  # fmt: skip


@dataclass(frozen=True)
class Topic:
    """A question about object `thing` of a scene; the others are the cue that names the scene."""

    scene: Scene
    thing: int
    sort: Sort
    attribute: str
    question: str

    @property
    def answer(self) -> str:
        """The answer to `question` where this scene is looked at."""
        return _value(self.scene.objects[self.thing], self.attribute)

    @property
    def cue(self) -> str:
        """Words that name the scene: `in the picture with a red circle and two green stars`."""
        parts = [a(name) if n == 1 else f"{_COUNT_WORDS[n]} {name}s" for name, n in self._named.items()]
        return f"in the picture with {' and '.join(parts)}"

    def fits(self, scene: Scene) -> bool:
        """Whether the cue may mean this scene: it holds all objects that the cue names."""
        return self._named <= _names(scene)

    def answers(self, scene: Scene) -> bool:
        """Whether the question can be asked of this scene: what it describes is there, once."""
        return sum(self.sort.fits(thing) for thing in scene.objects) == 1

    @cached_property
    def _named(self) -> Counter[str]:
        return Counter(thing.name for i, thing in enumerate(self.scene.objects) if i != self.thing)


def make_topic(rng: random.Random) -> Topic:
    """A scene of three or four objects and a question for color, shape or place of one of them."""
    while True:
        scene, attribute = make_scene(rng), rng.choice(ATTRIBUTES)
        options = Talk(scene, rng).described(attribute, lambda index: True)
        if len(scene.objects) < 3 or not options:
            continue
        thing, sort = rng.choice(options)
        question = rng.choice(ATTRIBUTE_QUESTIONS[attribute]).format(f"the {sort.noun()}")
        return Topic(scene, thing, sort, attribute, question)


def changed(topic: Topic, rng: random.Random) -> Topic:
    """The same scene with another answer: the object in question has another color, shape or place."""
    while True:
        thing = _altered(topic.scene, topic.thing, topic.attribute, rng)
        scene = _with(topic.scene, topic.thing, thing)
        if topic.answers(scene):
            return replace(topic, scene=scene)


def near_miss(topic: Topic, rng: random.Random) -> Topic:
    """A scene that the cue nearly names: one of the named objects differs, and so does the answer."""
    other = rng.choice([i for i in range(len(topic.scene.objects)) if i != topic.thing])
    while True:
        alike = changed(topic, rng).scene
        scene = _with(alike, other, _altered(alike, other, rng.choice(("color", "shape")), rng))
        if topic.answers(scene) and not topic.fits(scene):
            return replace(topic, scene=scene)


@cache
def _names(scene: Scene) -> Counter[str]:
    return Counter(thing.name for thing in scene.objects)


def _altered(scene: Scene, index: int, attribute: str, rng: random.Random) -> SceneObject:
    thing = scene.objects[index]
    if attribute == "color":
        return replace(thing, color=rng.choice([c for c in range(len(COLORS)) if c != thing.color]))
    if attribute == "shape":
        return replace(thing, shape=rng.choice([s for s in range(len(SHAPES)) if s != thing.shape]))
    place = rng.choice([p for p in range(len(PLACES)) if scene.at(p) < 0])
    row, column = divmod(place, 3)
    x, y = (round((axis + 0.5) * PICTURE_SIZE / 3) for axis in (column, row))
    return replace(thing, place=place, x=x, y=y)


def _with(scene: Scene, index: int, thing: SceneObject) -> Scene:
    objects = tuple(thing if i == index else old for i, old in enumerate(scene.objects))
    return replace(scene, objects=objects)


def _value(thing: SceneObject, attribute: str) -> str:
    values = {"color": COLORS[thing.color], "shape": SHAPES[thing.shape], "place": PLACES[thing.place]}
    return values[attribute]


@dataclass(frozen=True)
class Relation:
    """How a fact about a person is told and asked for; of `values`, the answers, `told` are the words."""

    statement: str
    question: str
    values: Sequence[str]
    told: Sequence[str]


RELATIONS = {
    "favorite": Relation("the favorite shape of {} is the {}", "what does {} like best", _PAIRS, _PAIRS),
    "door": Relation("{} painted the door {}", "what color is the door of {}", COLORS, COLORS),
    "seat": Relation("{} sits {}", "where does {} sit", PLACES, PLACE_PHRASES),
    "stars": Relation("{} has {} stars", "how many stars does {} have", _NUMBERS, _NUMBERS),
    "key": Relation("the key of {} is under the {}", "where is the key of {}", _PAIRS, _PAIRS),
}


@dataclass(frozen=True)
class Fact:
    """What was told of a person: the value's index in `RELATIONS[relation].values`."""

    person: str
    relation: str
    value: int

    @property
    def statement(self) -> str:
        """`anna painted the door blue`."""
        relation = RELATIONS[self.relation]
        return relation.statement.format(self.person, relation.told[self.value])

    @property
    def question(self) -> str:
        """`what color is the door of anna`."""
        return RELATIONS[self.relation].question.format(self.person)

    @property
    def answer(self) -> str:
        """`blue`."""
        return RELATIONS[self.relation].values[self.value]


def make_fact(person: str, relation: str, rng: random.Random, other_than: int = -1) -> Fact:
    """A fact with a value that is not `other_than`."""
    values = [v for v in range(len(RELATIONS[relation].values)) if v != other_than]
    return Fact(person, relation, rng.choice(values))


def small_talk(people: Sequence[str], rng: random.Random) -> str:
    """A sentence that no question asks for."""
    text = rng.choice(_TALK)
    return text.format(*rng.sample(list(people), text.count("{}")))
