"""Dialogues of the mini world: a caption and ten short questions, many of which refer to earlier ones.

What "it" means: the single object that the last question was about, or, before any question, the object
that the caption names if it names exactly one. An attribute question is about its object; a question that
looks for something ("is there a circle", "what is in the middle", "what is left of it") is about what it
finds. Counts leave "it" as it was. After a question that finds nothing, or several, there is no "it", and no
question uses the word, until one brings a new object.

An ellipsis ("and the square") asks the attribute that the question just before it asked, of another object.
"The one left of it" is the nearest object in the same row, "above it" in the same column (`Scene.neighbor`).

Every follow-up can be resolved from caption, earlier questions and picture: the embeddings hold no answers.
"""

import random

from malmm.data import mini_questions as ask
from malmm.data.mini_scene import Scene
from malmm.data.mini_talk import PLACE_PHRASES, ROUNDS, Dialogue, It, Talk

_FOLLOW_UP = 0.66  # chance of trying a follow-up first
_DIRECT: tuple[tuple[float, ask.Kind], ...] = (  # weights
    (2.0, ask.exist),
    (2.0, ask.count),
    (5.0, ask.attribute_of("color")),
    (3.5, ask.attribute_of("shape")),
    (2.5, ask.attribute_of("place")),
    (0.3, ask.attribute_of("size")),
    (0.5, ask.attribute_of("check")),
    (2.5, ask.content),
)
_FOLLOW_UPS: tuple[tuple[float, ask.Kind], ...] = (
    (5.0, ask.attribute_of_it("color")),
    (4.0, ask.attribute_of_it("shape")),
    (3.0, ask.attribute_of_it("place")),
    (0.3, ask.attribute_of_it("size")),
    (0.6, ask.attribute_of_it("check")),
    (3.0, ask.ellipsis),
    (1.2, ask.neighbor),
    (0.6, ask.neighbor_any),
    (2.0, ask.neighbor_attribute),
    (0.6, ask.another),
)


def make_dialogue(scene: Scene, rng: random.Random, rounds: int = ROUNDS) -> Dialogue:
    """Hold a dialogue of `rounds` questions about a scene."""
    talk = Talk(scene, rng)
    caption = _make_caption(talk)
    caption_object = talk.it.thing if talk.it else -1
    for _ in range(rounds):
        _ask(talk)
    return Dialogue(caption, caption_object, tuple(talk.rounds))


def _ask(talk: Talk) -> None:
    """Add a round: a follow-up or a direct question, of a kind that fits the scene and what was said."""
    groups = (_FOLLOW_UPS, _DIRECT) if talk.chance(_FOLLOW_UP) else (_DIRECT, _FOLLOW_UPS)
    for kinds in groups:
        # A weighted order without replacement (Efraimidis and Spirakis 2006).
        order = sorted(range(len(kinds)), key=lambda k: -(talk.rng.random() ** (1 / kinds[k][0])))
        for k in order:
            round_ = kinds[k][1](talk)
            if round_ is not None:
                talk.rounds.append(round_)
                return
    talk.rounds.append(ask.absent(talk))


def _make_caption(talk: Talk) -> str:
    """Write the caption: one object, two, only their number, or something generic."""
    rng = talk.rng
    kind = rng.choices(("one", "two", "count", "generic"), (4, 2, 1.5, 2.5))[0]
    if kind == "count":
        talk.spent.add(("total",))
        text = rng.choice(("{} shapes on a light background", "a picture of {} shapes"))
        return text.format(len(talk.scene.objects))
    named = talk.described("place", lambda index: True)
    if kind == "two" and len(named) >= 2:
        chosen = rng.sample(named, 2)
        for index, sort in chosen:
            talk.name(index, sort)
        both = " and ".join(ask.a(sort.noun("shape")) for _, sort in chosen)
        return rng.choice((both, f"a picture of {both}"))
    if kind != "one" or not named:
        return rng.choice(("a picture of some shapes", "some shapes on a light background"))
    index, sort = rng.choice(named)
    talk.name(index, sort)
    talk.it = It(index, 0)
    noun = ask.a(sort.noun("shape"))
    if talk.chance(0.3):
        place = talk.scene.objects[index].place
        talk.tell(index, "place")
        talk.spent.add(("place", place))
        return f"{noun} {PLACE_PHRASES[place]}"
    return rng.choice((f"{noun} and other shapes", f"a picture with {noun}"))
