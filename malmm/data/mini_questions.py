"""The mini world's kinds of question: each takes the talk so far and returns a round, or None if none fits.

The shares of "yes", "no", "nothing" and of each number are set so that the words of a question tell as
little as possible about its answer; where a scene seldom allows an answer, it is wanted more often.
"""

from collections.abc import Callable
from dataclasses import replace

from malmm.data.mini_scene import COLORS, SHAPES, SIZES
from malmm.data.mini_talk import DIRECTIONS, PLACE_PHRASES, It, Round, Sort, Talk

Kind = Callable[[Talk], Round | None]
_PAIRS = tuple(Sort(shape, color) for shape in range(len(SHAPES)) for color in range(len(COLORS)))
_SHAPES = tuple(Sort(shape) for shape in range(len(SHAPES)))
_COLORS = tuple(Sort(color=color) for color in range(len(COLORS)))

# The first two phrasings also serve "it" and "the one left of it".
ATTRIBUTE_QUESTIONS = {
    "color": ("what color is {}", "which color is {}", "what is the color of {}"),
    "shape": ("what shape is {}", "which shape is {}", "what is the shape of {}"),
    "place": ("where is {}", "where do you see {}"),
    "size": ("how big is {}", "what size is {}"),
    "large": ("is {} large", "is {} big"),
    "small": ("is {} small",),
}


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def exist(talk: Talk) -> Round | None:
    """Ask whether there is a circle, a red shape, a red square."""
    want = talk.chance(0.65)
    sorts = talk.rng.choice((_SHAPES, _SHAPES, _COLORS, _PAIRS, _PAIRS))
    if sorts is _PAIRS and not want and talk.chance(0.5):
        # Near misses: shape and color are both there, but not in one object.
        sorts = tuple(s for s in _PAIRS if talk.fitting(Sort(s.shape)) and talk.fitting(Sort(color=s.color)))
    options = _unasked(talk, sorts, want) or _unasked(talk, _PAIRS, want)
    return _exist(talk, options) if options else None


def absent(talk: Talk) -> Round:
    """Ask for a sort of object that is not there: 20 of 24 pairs at least, so one is always left."""
    return _exist(talk, _unasked(talk, _PAIRS, False))


def _unasked(talk: Talk, sorts: tuple[Sort, ...], want: bool) -> list[Sort]:
    return [s for s in sorts if bool(talk.fitting(s)) == want and ("exist", *s) not in talk.spent]


def _exist(talk: Talk, options: list[Sort]) -> Round:
    sort = talk.rng.choice(options)
    talk.spent.update((("exist", *sort), ("count", *sort)))
    found = talk.fitting(sort)
    referent = talk.find(found)
    if referent >= 0:
        talk.tell(referent, *sort.attributes)
    text = talk.rng.choice(("is there {}", "do you see {}", "can you see {}")).format(a(sort.noun("shape")))
    return Round(text, "yes" if found else "no", "exist", referent)


def count(talk: Talk) -> Round | None:
    """Ask how many objects there are, or how many of a shape or color: each possible number equally often."""
    sorts = talk.rng.choice(((), _SHAPES, _SHAPES, _COLORS, _COLORS))
    if not sorts:
        if ("total",) in talk.spent:
            return None
        talk.spent.add(("total",))
        text = talk.rng.choice(("how many shapes are there", "how many shapes do you see"))
        return Round(text, str(len(talk.scene.objects)), "count")
    numbers: dict[int, list[Sort]] = {}
    for sort in sorts:
        if not {("count", *sort), ("only", *sort)} & talk.spent:
            numbers.setdefault(len(talk.fitting(sort)), []).append(sort)
    number = talk.rng.choice(sorted(numbers)) if numbers else 0
    if not numbers or (number == 0 and talk.chance(0.5)):
        return None
    sort = talk.rng.choice(numbers[number])
    talk.spent.update((("exist", *sort), ("count", *sort)))
    if sort.shape >= 0:
        texts = (f"how many {sort.noun()}s are there", f"how many {sort.noun()}s do you see")
    else:
        texts = (f"how many are {COLORS[sort.color]}", f"how many {sort.noun('shape')}s are there")
    return Round(talk.rng.choice(texts), str(number), "count")


def content(talk: Talk) -> Round | None:
    """Ask what is on a place, or whether anything is."""
    what = talk.chance(0.6)
    want = talk.chance(0.75 if what else 0.6)
    places = []
    for place in range(len(PLACE_PHRASES)):
        index = talk.scene.at(place)
        if (index >= 0) == want and ("place", place) not in talk.spent and not talk.known(index, "place"):
            places.append(place)
    if not places:
        return None
    place = talk.rng.choice(places)
    talk.spent.add(("place", place))
    index = talk.find([talk.scene.at(place)] if want else [])
    if want:
        talk.tell(index, "place", *(("color", "shape") if what else ()))
    texts = (
        ("what is {}", "what do you see {}") if what else ("is there anything {}", "do you see anything {}")
    )
    text = talk.rng.choice(texts).format(PLACE_PHRASES[place])
    if not what:
        return Round(text, "yes" if want else "no", "anything", index)
    return Round(text, talk.scene.objects[index].name if want else "nothing", "content", index)


def attribute_of(attribute: str) -> Kind:
    """Ask for an attribute of an object that the question describes."""

    def direct(talk: Talk) -> Round | None:
        asked = _size_check(talk, attribute)
        options = talk.described(asked, lambda index: not talk.known(index, asked))
        if not options:
            return None
        index, sort = talk.rng.choice(options)
        talk.name(index, sort)
        talk.tell(index, asked)
        talk.find([index])
        text = talk.rng.choice(ATTRIBUTE_QUESTIONS[asked]).format(f"the {sort.noun()}")
        return Round(text, talk.answer(index, asked), asked, index, attribute=asked)

    return direct


def attribute_of_it(attribute: str) -> Kind:
    """Ask for an attribute of "it"."""

    def follow_up(talk: Talk) -> Round | None:
        asked, it = _size_check(talk, attribute), talk.reach()
        if it is None or talk.known(it.thing, asked):
            return None
        if (asked == "size" or asked in SIZES) and talk.chance(0.5):  # always possible, and easily guessed
            return None
        talk.tell(it.thing, asked)
        text = talk.rng.choice(ATTRIBUTE_QUESTIONS[asked][:2]).format("it")
        answer = talk.answer(it.thing, asked)
        return Round(text, answer, f"it_{asked}", it.thing, it.thing, it.source, asked, hops=it.hops)

    return follow_up


def _size_check(talk: Talk, attribute: str) -> str:
    return talk.rng.choice(SIZES) if attribute == "check" else attribute


def ellipsis(talk: Talk) -> Round | None:
    """Ask the last question's attribute of another object: and the square."""
    last = talk.last_attribute()
    if last is None:
        return None
    attribute, source = last
    before = talk.rounds[-1].referent
    options = talk.described(attribute, lambda index: index != before and not talk.known(index, attribute))
    if not options:
        return None
    index, sort = talk.rng.choice(options)
    talk.name(index, sort)
    talk.tell(index, attribute)
    talk.find([index])
    text = talk.rng.choice(("and the {}", "what about the {}")).format(sort.noun())
    return Round(text, talk.answer(index, attribute), "ellipsis", index, -1, source, attribute, source)


def neighbor(talk: Talk) -> Round | None:
    """Ask what is left of, right of, above or below "it"."""
    toward = _toward(talk, talk.chance(0.85))
    if toward is None:
        return None
    it, direction, found = toward
    if found >= 0 and talk.known(found, "color") and talk.known(found, "shape"):
        return None
    text = talk.rng.choice(("what is {} it", "what do you see {} it")).format(DIRECTIONS[direction])
    if found >= 0:
        talk.tell(found, "color", "shape")
    answer = talk.scene.objects[found].name if found >= 0 else "nothing"
    return _step(talk, it, direction, found, Round(text, answer, "neighbor"))


def neighbor_any(talk: Talk) -> Round | None:
    """Ask whether anything is left of, right of, above or below "it"."""
    want = talk.chance(0.64)
    toward = _toward(talk, want)
    if toward is None:
        return None
    it, direction, found = toward
    text = talk.rng.choice(("is there anything {} it", "do you see anything {} it"))
    text = text.format(DIRECTIONS[direction])
    return _step(talk, it, direction, found, Round(text, "yes" if want else "no", "neighbor_any"))


def neighbor_attribute(talk: Talk) -> Round | None:
    """Ask for color or shape of the one beside "it"; or, as an ellipsis, for what the last question asked."""
    toward = _toward(talk, True)
    if toward is None:
        return None
    it, direction, found = toward
    noun = f"the one {DIRECTIONS[direction]} it"
    last = talk.last_attribute()
    if last is not None and talk.rounds[-1].referent == it.thing and talk.chance(0.5):
        attribute, source = last
        text, kind = f"and {noun}", "neighbor_ellipsis"
    else:
        attribute, source = talk.rng.choice(("color", "shape")), -1
        text, kind = talk.rng.choice(ATTRIBUTE_QUESTIONS[attribute][:2]).format(noun), f"neighbor_{attribute}"
    if talk.known(found, attribute):
        return None
    talk.tell(found, attribute)
    answer = talk.answer(found, attribute)
    round_ = Round(text, answer, kind, attribute=attribute, attribute_from=source)
    return _step(talk, it, direction, found, round_)


def _toward(talk: Talk, want: bool) -> tuple[It, str, int] | None:
    """A direction from "it" with a neighbor (or without) about which nothing was asked, and that neighbor."""
    it = talk.reach()
    if it is None or it.hops:
        return None
    row, column = divmod(talk.scene.objects[it.thing].place, 3)
    at_edge = {"left": column == 0, "right": column == 2, "above": row == 0, "below": row == 2}
    options = []
    for direction in DIRECTIONS:
        found = talk.scene.neighbor(it.thing, direction)
        given_away = at_edge[direction] and talk.known(it.thing, "place")
        if (found >= 0) == want and ("toward", it.thing, direction) not in talk.spent and not given_away:
            options.append((it, direction, found))
    return talk.rng.choice(options) if options else None


def _step(talk: Talk, it: It, direction: str, found: int, round_: Round) -> Round:
    talk.spent.add(("toward", it.thing, direction))
    talk.find([found] if found >= 0 else [], it.hops + 1)
    return replace(round_, referent=found, anchor=it.thing, depends_on=it.source, hops=it.hops)


def another(talk: Talk) -> Round | None:
    """Ask whether another object has the color or shape of "it"."""
    it, aspect = talk.reach(), talk.rng.choice(("color", "shape"))
    if it is None or it.hops or ("another", it.thing, aspect) in talk.spent:
        return None
    sort = Sort(**{aspect: getattr(talk.scene.objects[it.thing], aspect)})
    found = [index for index in talk.fitting(sort) if index != it.thing]
    if ("only", *sort) in talk.spent or (found and talk.chance(0.5)):  # a "no" is often given away already
        return None
    talk.spent.add(("another", it.thing, aspect))
    referent = talk.find(found, it.hops + 1)
    text = talk.rng.choice(("is there another one of that {}", "do you see another one of that {}"))
    answer = "yes" if found else "no"
    return Round(text.format(aspect), answer, "another", referent, it.thing, it.source, hops=it.hops)
