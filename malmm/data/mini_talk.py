"""The state of a mini-world dialogue: what was asked, what "it" means, what would give an answer away."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from malmm.data.mini_scene import COLORS, PLACES, SHAPES, SIZES, Scene, SceneObject

ROUNDS = 10
DIRECTIONS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
_PREPOSITION = {"top": "at", "bottom": "at", "left": "on", "right": "on"}
PLACE_PHRASES = tuple(f"{_PREPOSITION.get(place, 'in')} the {place}" for place in PLACES)
FARTHEST = 5  # rounds back to the question that brought "it" or named an attribute


@dataclass(frozen=True)
class Round:
    """One question with its answer and what it takes to understand it; rounds count from 1, the caption is 0.

    `referent` is the object that the answer is about (-1: none or several), `anchor` the one that "it" or
    "that" stands for (-1: no pronoun). `depends_on` is the round that brought the anchor, for "and the
    square" the round that named the attribute, and -1 for a direct question. `attribute` is what an
    attribute question asks (else empty), `attribute_from` the round that named it where the question does
    not (else -1). `hops` counts the steps ("left of it", "another one") from a described object to the
    anchor.
    """

    question: str
    answer: str
    kind: str
    referent: int = -1
    anchor: int = -1
    depends_on: int = -1
    attribute: str = ""
    attribute_from: int = -1
    hops: int = 0


@dataclass(frozen=True)
class Dialogue:
    """A caption, the object that it names alone (-1: none or several), and the rounds."""

    caption: str
    caption_object: int
    rounds: tuple[Round, ...]


class Sort(NamedTuple):
    """A sort of object: its shape, its color or both (-1: any)."""

    shape: int = -1
    color: int = -1

    def fits(self, thing: SceneObject) -> bool:
        """Whether an object is of this sort."""
        return self.shape in (-1, thing.shape) and self.color in (-1, thing.color)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that the noun names."""
        return tuple(name for name, value in zip(self._fields, self, strict=True) if value >= 0)

    def noun(self, any_shape: str = "one") -> str:
        """`circle`, `red one` or `red circle`."""
        shape = SHAPES[self.shape] if self.shape >= 0 else any_shape
        return f"{COLORS[self.color]} {shape}" if self.color >= 0 else shape


class It(NamedTuple):
    """What "it" stands for (an object's index), the round that brought it, and its hops."""

    thing: int
    source: int
    hops: int = 0


class Talk:
    """A dialogue that is being held; the question kinds (mini_questions.py) read and change it.

    `told` holds (object, attribute) pairs that were named or asked: they are not asked again. `spent` holds
    questions that were asked, or whose answer the words so far give away.
    """

    def __init__(self, scene: Scene, rng: random.Random) -> None:
        self.scene, self.rng = scene, rng
        self.rounds: list[Round] = []
        self.it: It | None = None
        self.told: set[tuple[int, str]] = set()
        self.spent: set[tuple[str, *tuple[int | str, ...]]] = set()

    @property
    def now(self) -> int:
        """The number of the round to come."""
        return len(self.rounds) + 1

    def chance(self, share: float) -> bool:
        """True in `share` of the calls."""
        return self.rng.random() < share

    def fitting(self, sort: Sort) -> list[int]:
        """The objects of a sort."""
        return [i for i, thing in enumerate(self.scene.objects) if sort.fits(thing)]

    def described(self, avoid: str, wanted: Callable[[int], bool]) -> list[tuple[int, Sort]]:
        """Each wanted object with a description that fits it alone and does not name attribute `avoid`."""
        result = []
        for index, thing in enumerate(self.scene.objects):
            sorts = [
                sort
                for sort in (Sort(thing.shape), Sort(color=thing.color), Sort(thing.shape, thing.color))
                if avoid not in sort.attributes
                and not (avoid in ("shape", "color") and len(sort.attributes) == 2)
                and self.fitting(sort) == [index]
            ]
            if sorts and wanted(index):
                result.append((index, self.rng.choice(sorts)))
        return result

    def name(self, index: int, sort: Sort) -> None:
        """Note that words described an object: whether such things are there is no question any more."""
        thing = self.scene.objects[index]
        self.told.update((index, attribute) for attribute in sort.attributes)
        self.spent.update((("exist", *sort), ("exist", thing.shape, thing.color), ("only", *sort)))
        if len(sort.attributes) == 2:
            self.spent.update((("exist", *Sort(thing.shape)), ("exist", *Sort(color=thing.color))))

    def tell(self, index: int, *attributes: str) -> None:
        """Note that attributes of an object were asked."""
        self.told.update((index, _aspect(attribute)) for attribute in attributes)

    def known(self, index: int, attribute: str) -> bool:
        """Whether an attribute of an object was named or asked."""
        return (index, _aspect(attribute)) in self.told

    def find(self, indices: Sequence[int], hops: int = 0) -> int:
        """Let "it" be the one object that the question to come finds; with none or several there is no "it".

        Returns that object, or -1.
        """
        self.it = It(indices[0], self.now, hops) if len(indices) == 1 else None
        return indices[0] if len(indices) == 1 else -1

    def reach(self) -> It | None:
        """What "it" stands for, unless it was brought too long ago."""
        return self.it if self.it and self.now - self.it.source <= FARTHEST else None

    def last_attribute(self) -> tuple[str, int] | None:
        """The attribute that the round just before asked and the round that named it, unless too long ago."""
        last = self.rounds[-1] if self.rounds else None
        if last is None or not last.attribute:
            return None
        source = last.attribute_from if last.attribute_from > 0 else self.now - 1
        return (last.attribute, source) if self.now - source <= FARTHEST else None

    def answer(self, index: int, attribute: str) -> str:
        """The answer to a question for one attribute of one object."""
        thing = self.scene.objects[index]
        if attribute in SIZES:
            return "yes" if SIZES[thing.size] == attribute else "no"
        words = {
            "color": COLORS[thing.color],
            "shape": SHAPES[thing.shape],
            "place": PLACES[thing.place],
            "size": SIZES[thing.size],
        }
        return words[attribute]


def _aspect(attribute: str) -> str:
    """What an attribute tells of: "is it large" asks for the size."""
    return "size" if attribute in SIZES else attribute
