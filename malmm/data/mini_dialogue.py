"""Dialogues of the mini world: a caption and ten short questions, many of which refer to earlier ones.

What "it" means: the single object that the last question was about, or, before any question, the object that the
caption names if it names exactly one. An attribute question is about its object; a question that looks for something
("is there a circle", "what is in the middle", "what is left of it") is about what it finds. Counts leave "it"
as it was. After a question that finds nothing, or several, there is no "it" until a question brings a new one.

An ellipsis ("and the square") asks the attribute that the question just before it asked, of another object. A
neighbor ("the one left of it") is the nearest object in the same row or column (`Scene.neighbor`).

Every follow-up can be resolved from caption, earlier questions and picture: the embeddings hold no answers.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from malmm.data.mini_scene import COLORS, PLACES, SHAPES, SIZES, Scene

ROUNDS = 10
DIRECTIONS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
_PREPOSITION = {"top": "at", "bottom": "at", "left": "on", "right": "on"}
PLACE_PHRASES = tuple(f"{_PREPOSITION.get(place, 'in')} the {place}" for place in PLACES)
_FOLLOW_UP = 0.66  # chance of trying a follow-up where there is something to follow
_FARTHEST = 5  # rounds back to the question that brought "it"

ATTRIBUTE_QUESTIONS = {
    "color": ("what color is {}", "which color is {}", "what is the color of {}"),
    "shape": ("what shape is {}", "which shape is {}", "what is the shape of {}"),
    "place": ("where is {}", "where do you see {}"),
    "size": ("how big is {}", "what size is {}"),
    "large": ("is {} large", "is {} big"),
    "small": ("is {} small",),
}


@dataclass(frozen=True)
class Round:
    """One question with its answer and what it takes to understand it; rounds count from 1, the caption is 0.

    `referent` is the object that the answer is about (-1: none or several) and `anchor` the one that "it" or "that"
    stands for (-1: no pronoun). `depends_on` is the round that brought the anchor, for an ellipsis the round that
    named the attribute, and -1 for a direct question; `attribute_from` is the round that named the attribute of an
    ellipsis (-1 elsewhere). `hops` counts the neighbors and likes between a described object and the anchor.
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
    """A caption, the object it names alone (-1: none or several), and the rounds."""

    caption: str
    caption_object: int
    rounds: tuple[Round, ...]


@dataclass(frozen=True)
class _It:
    """What "it" stands for, the round that brought it and its hops."""

    index: int
    source: int
    hops: int = 0


def make_dialogue(scene: Scene, rng: random.Random, rounds: int = ROUNDS) -> Dialogue:
    """Hold a dialogue of `rounds` questions about a scene."""
    talk = _Talk(scene, rng)
    caption = talk.make_caption()
    caption_object = talk.it.index if talk.it else -1
    for _ in range(rounds):
        talk.ask()
    return Dialogue(caption, caption_object, tuple(talk.rounds))


def attribute_answer(scene: Scene, index: int, attribute: str) -> str:
    """The answer to a question for one attribute of one object."""
    thing = scene.objects[index]
    if attribute in SIZES:
        return "yes" if SIZES[thing.size] == attribute else "no"
    names: dict[str, tuple[Sequence[str], int]] = {
        "color": (COLORS, thing.color),
        "shape": (SHAPES, thing.shape),
        "place": (PLACES, thing.place),
        "size": (SIZES, thing.size),
    }
    words, position = names[attribute]
    return words[position]


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


class _Talk:
    """The dialogue so far: what "it" is, and what was said, so that no question gives itself away."""

    def __init__(self, scene: Scene, rng: random.Random) -> None:
        self.scene, self.rng = scene, rng
        self.rounds: list[Round] = []
        self.it: _It | None = None
        self.told: set[tuple[int, str]] = set()  # (object, attribute) that was named or asked
        self.used: set[tuple[object, ...]] = (
            set()
        )  # shapes, colors, places, neighbors that were named or asked

    # --- the caption -------------------------------------------------------------------------------------------

    def make_caption(self) -> str:
        kind = self.rng.choices(("one", "two", "count", "generic"), (4, 2, 1.5, 2.5))[0]
        if kind == "count":
            self.used.add(("total",))
            return self.rng.choice(("{} shapes on a light background", "a picture of {} shapes")).format(
                len(self.scene.objects)
            )
        nouns = [(i, *noun) for i in range(len(self.scene.objects)) if (noun := self._noun(i, "place"))]
        wanted = {"one": 1, "two": 2}.get(kind, 0)
        if not wanted or len(nouns) < wanted:
            return self.rng.choice(("a picture of some shapes", "some shapes on a light background"))
        chosen = self.rng.sample(nouns, wanted)
        for index, noun, named in chosen:
            self._name(index, named, noun)
        first = _a(chosen[0][1].replace(" one", " shape"))
        if wanted == 2:
            second = _a(chosen[1][1].replace(" one", " shape"))
            return self.rng.choice((f"{first} and {second}", f"a picture of {first} and {second}"))
        index = chosen[0][0]
        self.it = _It(index, 0)
        if self.rng.random() < 0.3:
            place = self.scene.objects[index].place
            self.told.add((index, "place"))
            self.used.add(("place", place))
            return f"{first} {PLACE_PHRASES[place]}"
        return self.rng.choice((f"{first} and other shapes", f"a picture with {first}"))

    # --- one round ---------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask the next question: a follow-up or a direct one, of a kind that fits the scene and what was said."""
        groups = [_DIRECT, _FOLLOW_UPS]
        if self.rng.random() < _FOLLOW_UP:
            groups.reverse()
        for kinds in groups:
            # Weighted order without replacement (Efraimidis and Spirakis 2006).
            for _, propose in sorted(
                (-(self.rng.random() ** (1 / weight)), i) for i, (weight, _) in enumerate(kinds)
            ):
                proposal = kinds[propose][1](self)
                if proposal is not None:
                    self.rounds.append(proposal)
                    return
        self.rounds.append(self._exist(self._existence_options("pair", False)))

    @property
    def _now(self) -> int:
        return len(self.rounds) + 1

    def _coin(self) -> bool:
        return self.rng.random() < 0.5

    def _noun(self, index: int, attribute: str) -> tuple[str, tuple[str, ...]] | None:
        """A description that fits object `index` alone and does not name `attribute`, with what it names."""
        thing, objects = self.scene.objects[index], self.scene.objects
        only_shape = sum(other.shape == thing.shape for other in objects) == 1
        only_color = sum(other.color == thing.color for other in objects) == 1
        only_both = sum(other.name == thing.name for other in objects) == 1
        options: list[tuple[str, tuple[str, ...]]] = []
        if only_shape and attribute != "shape":
            options.append((SHAPES[thing.shape], ("shape",)))
        if only_color and attribute != "color":
            options.append((f"{COLORS[thing.color]} one", ("color",)))
        if only_both and attribute not in ("shape", "color"):
            options.append((thing.name, ("shape", "color")))
        return self.rng.choice(options) if options else None

    def _name(self, index: int, named: tuple[str, ...], noun: str) -> None:
        """Remember that a description named an object: its kind is now known to be there."""
        thing = self.scene.objects[index]
        self.told.update((index, attribute) for attribute in named)
        self.used.add(("pair", thing.color, thing.shape))
        if "shape" in named:
            self.used.add(("shape", thing.shape))
        if "color" in named:
            self.used.add(("color", thing.color))
        if len(named) == 1:
            self.used.add(("only", named[0], getattr(thing, named[0])))

    def _found(self, indices: list[int], hops: int = 0) -> int:
        """Let "it" be the one object that a question found; with none or several there is no "it"."""
        self.it = _It(indices[0], self._now, hops) if len(indices) == 1 else None
        return indices[0] if len(indices) == 1 else -1

    def _tell(self, index: int, attribute: str) -> None:
        self.told.add((index, "size" if attribute in SIZES else attribute))

    def _known(self, index: int, attribute: str) -> bool:
        return (index, "size" if attribute in SIZES else attribute) in self.told

    def _size_check(self, attribute: str) -> str:
        return self.rng.choice(SIZES) if attribute == "check" else attribute

    # --- direct questions --------------------------------------------------------------------------------------

    def exist(self) -> Round | None:
        """Is there a circle, a red shape, a red square; yes and no are equally likely."""
        want = self.rng.random() < 0.65  # a "yes" is often impossible: this brings about as many as of "no"
        form = self.rng.choice(("shape", "shape", "color", "pair", "pair"))
        if form == "pair" and not want and self._coin():
            form = "near"
        options = self._existence_options(form, want) or self._existence_options("pair", want)
        return self._exist(options) if options else None

    def _exist(self, options: list[tuple[str, tuple[str, int, int]]]) -> Round:
        noun, key = self.rng.choice(options)
        self.used.add(key)
        self.used.add(("count", key[0], max(key[1:])))
        found = [i for i, thing in enumerate(self.scene.objects) if _fits(key, thing.shape, thing.color)]
        text = self.rng.choice(("is there {}", "do you see {}", "can you see {}")).format(_a(noun))
        referent = self._found(found)
        if referent >= 0:
            self.told.update(
                (referent, name) for name in (("shape", "color") if key[0] == "pair" else key[:1])
            )
        return Round(text, "yes" if found else "no", "exist", referent)

    def _existence_options(self, form: str, want: bool) -> list[tuple[str, tuple[str, int, int]]]:
        things = self.scene.objects
        keys: list[tuple[str, tuple[str, int, int]]] = []
        for shape in range(len(SHAPES)) if form == "shape" else ():
            keys.append((SHAPES[shape], ("shape", shape, -1)))
        for color in range(len(COLORS)) if form == "color" else ():
            keys.append((f"{COLORS[color]} shape", ("color", -1, color)))
        if form in ("pair", "near"):
            # A near miss: color and shape are both there, but not in one object.
            near = form == "near"
            keys = [
                (f"{COLORS[color]} {SHAPES[shape]}", ("pair", shape, color))
                for shape in range(len(SHAPES))
                for color in range(len(COLORS))
                if not near
                or (any(t.shape == shape for t in things) and any(t.color == color for t in things))
            ]
        return [
            (noun, key)
            for noun, key in keys
            if any(_fits(key, thing.shape, thing.color) for thing in things) == want and not self._spent(key)
        ]

    def _spent(self, key: tuple[str, int, int]) -> bool:
        form, shape, color = key
        plain = {"shape": ("shape", shape), "color": ("color", color), "pair": ("pair", color, shape)}[form]
        return key in self.used or plain in self.used

    def count(self) -> Round | None:
        """How many objects, or objects of a shape or color; every number that occurs is equally likely."""
        form = self.rng.choice(("total", "shape", "shape", "color", "color"))
        if form == "total":
            if ("total",) in self.used:
                return None
            self.used.add(("total",))
            text = self.rng.choice(("how many shapes are there", "how many shapes do you see"))
            return Round(text, str(len(self.scene.objects)), "count")
        names = SHAPES if form == "shape" else COLORS
        numbers: dict[int, list[int]] = {}
        for value in range(len(names)):
            if not {("count", form, value), ("only", form, value)} & self.used:
                numbers.setdefault(sum(getattr(t, form) == value for t in self.scene.objects), []).append(
                    value
                )
        if not numbers:
            return None
        number = self.rng.choice(sorted(numbers))
        if number == 0 and self._coin():
            return None
        value = self.rng.choice(numbers[number])
        self.used.update(((form, value), ("count", form, value)))
        if form == "shape":
            texts = (f"how many {names[value]}s are there", f"how many {names[value]}s do you see")
        else:
            texts = (f"how many are {names[value]}", f"how many {names[value]} shapes are there")
        return Round(self.rng.choice(texts), str(number), "count")

    def attribute(self, attribute: str) -> Round | None:
        """An attribute of an object that the question describes."""
        attribute = self._size_check(attribute)
        options = [
            (i, *noun)
            for i in range(len(self.scene.objects))
            if not self._known(i, attribute) and (noun := self._noun(i, attribute))
        ]
        if not options:
            return None
        index, noun, named = self.rng.choice(options)
        self._name(index, named, noun)
        self._tell(index, attribute)
        self._found([index])
        text = self.rng.choice(ATTRIBUTE_QUESTIONS[attribute]).format(f"the {noun}")
        return Round(
            text, attribute_answer(self.scene, index, attribute), attribute, index, attribute=attribute
        )

    def content(self) -> Round | None:
        """What is on a place, or whether anything is."""
        what = self.rng.random() < 0.6
        want = self.rng.random() < (0.75 if what else 0.6)
        places = [
            place
            for place in range(9)
            if ("place", place) not in self.used
            and ((found := self.scene.at(place)) >= 0) == want
            and (not want or not self._known(found, "place"))
        ]
        if not places:
            return None
        place = self.rng.choice(places)
        self.used.add(("place", place))
        index = self._found([self.scene.at(place)] if want else [])
        if want:
            self.told.add((index, "place"))
        if not what:
            text = self.rng.choice(("is there anything {}", "do you see anything {}")).format(
                PLACE_PHRASES[place]
            )
            return Round(text, "yes" if want else "no", "anything", index)
        if want:
            self.told.update(((index, "color"), (index, "shape")))
        text = self.rng.choice(("what is {}", "what do you see {}")).format(PLACE_PHRASES[place])
        return Round(text, self.scene.objects[index].name if want else "nothing", "content", index)

    # --- follow-ups --------------------------------------------------------------------------------------------

    def _reach(self) -> _It | None:
        """What "it" stands for, unless it was brought too long ago."""
        return self.it if self.it and self._now - self.it.source <= _FARTHEST else None

    def it_attribute(self, attribute: str) -> Round | None:
        """An attribute of "it"."""
        attribute, it = self._size_check(attribute), self._reach()
        if it is None or self._known(it.index, attribute):
            return None
        if (attribute == "size" or attribute in SIZES) and self._coin():  # sizes are easily guessed
            return None
        self._tell(it.index, attribute)
        text = self.rng.choice(ATTRIBUTE_QUESTIONS[attribute][:2]).format("it")
        answer = attribute_answer(self.scene, it.index, attribute)
        return Round(text, answer, f"it_{attribute}", it.index, it.index, it.source, attribute, hops=it.hops)

    def _last_attribute(self) -> tuple[str, int] | None:
        """The attribute that the question just before asked, and the round that named it."""
        last = self.rounds[-1] if self.rounds else None
        if last is None or not last.attribute:
            return None
        return last.attribute, last.attribute_from if last.attribute_from > 0 else self._now - 1

    def ellipsis(self) -> Round | None:
        """The same attribute of another object: and the square."""
        last = self._last_attribute()
        if last is None:
            return None
        attribute, source = last
        if self._now - source > _FARTHEST:
            return None
        options = [
            (i, *noun)
            for i in range(len(self.scene.objects))
            if i != self.rounds[-1].referent
            and not self._known(i, attribute)
            and (noun := self._noun(i, attribute))
        ]
        if not options:
            return None
        index, noun, named = self.rng.choice(options)
        self._name(index, named, noun)
        self._tell(index, attribute)
        self._found([index])
        text = self.rng.choice(("and the {}", "what about the {}")).format(noun)
        answer = attribute_answer(self.scene, index, attribute)
        return Round(text, answer, "ellipsis", index, -1, source, attribute, source)

    def _toward(self, want: bool) -> tuple[_It, str, int] | None:
        """A direction from "it" in which something is (or nothing) and about which nothing was asked."""
        it = self._reach()
        if it is None or it.hops:
            return None
        row, column = divmod(self.scene.objects[it.index].place, 3)
        outside = {"left": column == 0, "right": column == 2, "above": row == 0, "below": row == 2}
        directions = [
            (direction, found)
            for direction in DIRECTIONS
            if ("neighbor", it.index, direction) not in self.used
            and ((found := self.scene.neighbor(it.index, direction)) >= 0) == want
            and not (outside[direction] and self._known(it.index, "place"))
        ]
        if not directions:
            return None
        direction, found = self.rng.choice(directions)
        return it, direction, found

    def _neighbor_round(self, it: _It, direction: str, found: int, round_: Round) -> Round:
        self.used.add(("neighbor", it.index, direction))
        self._found([found] if found >= 0 else [], it.hops + 1)
        return replace(round_, referent=found, anchor=it.index, depends_on=it.source, hops=it.hops)

    def neighbor(self) -> Round | None:
        """What is beside "it"."""
        toward = self._toward(self.rng.random() < 0.85)
        if toward is None:
            return None
        it, direction, found = toward
        if found >= 0 and self._known(found, "color") and self._known(found, "shape"):
            return None
        text = self.rng.choice(("what is {} it", "what do you see {} it")).format(DIRECTIONS[direction])
        if found >= 0:
            self.told.update(((found, "color"), (found, "shape")))
        answer = self.scene.objects[found].name if found >= 0 else "nothing"
        return self._neighbor_round(it, direction, found, Round(text, answer, "neighbor"))

    def neighbor_any(self) -> Round | None:
        """Whether anything is beside "it"."""
        want = self.rng.random() < 0.64
        toward = self._toward(want)
        if toward is None:
            return None
        it, direction, found = toward
        text = self.rng.choice(("is there anything {} it", "do you see anything {} it"))
        text = text.format(DIRECTIONS[direction])
        return self._neighbor_round(
            it, direction, found, Round(text, "yes" if want else "no", "neighbor_any")
        )

    def neighbor_attribute(self) -> Round | None:
        """Color or shape of the object beside "it", in words or as an ellipsis."""
        toward = self._toward(True)
        if toward is None:
            return None
        it, direction, found = toward
        noun = f"the one {DIRECTIONS[direction]} it"
        last = self._last_attribute()
        if last is not None and self.rounds[-1].referent == it.index and self._coin():
            attribute, source = last
            text, kind = f"and {noun}", "neighbor_ellipsis"
        else:
            attribute, source = self.rng.choice(("color", "shape")), -1
            text, kind = (
                self.rng.choice(ATTRIBUTE_QUESTIONS[attribute][:2]).format(noun),
                f"neighbor_{attribute}",
            )
        if self._known(found, attribute):
            return None
        self._tell(found, attribute)
        answer = attribute_answer(self.scene, found, attribute)
        round_ = Round(text, answer, kind, attribute=attribute, attribute_from=source)
        return self._neighbor_round(it, direction, found, round_)

    def another(self) -> Round | None:
        """Whether another object has the color or shape of "it"."""
        it, form = self._reach(), self.rng.choice(("color", "shape"))
        if it is None or it.hops:
            return None
        value = getattr(self.scene.objects[it.index], form)
        if ("only", form, value) in self.used or ("another", form, it.index) in self.used:
            return None
        found = [
            i for i, thing in enumerate(self.scene.objects) if i != it.index and getattr(thing, form) == value
        ]
        if found and self._coin():  # likes are looked for where they are, so "yes" would prevail
            return None
        self.used.add(("another", form, it.index))
        referent = self._found(found, it.hops + 1)
        text = self.rng.choice(
            (f"is there another one of that {form}", f"do you see another one of that {form}")
        )
        return Round(text, "yes" if found else "no", "another", referent, it.index, it.source, hops=it.hops)


def _fits(key: tuple[str, int, int], shape: int, color: int) -> bool:
    _, wanted_shape, wanted_color = key
    return wanted_shape in (-1, shape) and wanted_color in (-1, color)


def _of(method: Callable[[_Talk, str], Round | None], attribute: str) -> Callable[[_Talk], Round | None]:
    return lambda talk: method(talk, attribute)


_Kinds = tuple[tuple[float, Callable[[_Talk], Round | None]], ...]
_DIRECT: _Kinds = (
    (2.0, _Talk.exist),
    (2.0, _Talk.count),
    (5.0, _of(_Talk.attribute, "color")),
    (3.5, _of(_Talk.attribute, "shape")),
    (2.5, _of(_Talk.attribute, "place")),
    (0.3, _of(_Talk.attribute, "size")),
    (0.5, _of(_Talk.attribute, "check")),
    (2.5, _Talk.content),
)
_FOLLOW_UPS: _Kinds = (
    (5.0, _of(_Talk.it_attribute, "color")),
    (4.0, _of(_Talk.it_attribute, "shape")),
    (3.0, _of(_Talk.it_attribute, "place")),
    (0.3, _of(_Talk.it_attribute, "size")),
    (0.6, _of(_Talk.it_attribute, "check")),
    (3.0, _Talk.ellipsis),
    (1.2, _Talk.neighbor),
    (0.6, _Talk.neighbor_any),
    (2.0, _Talk.neighbor_attribute),
    (0.6, _Talk.another),
)
