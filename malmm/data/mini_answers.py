"""The answer side of the mini world's files: all answers, 100 options for a round, dense relevance."""

import itertools
import random

from malmm.data.mini_scene import COLORS, PLACES, SHAPES, SIZES, Scene
from malmm.data.mini_talk import Round

OPTIONS = 100
_PAIRS = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
_TRUE_ANSWERS = (
    ("yes", "no"),
    tuple(str(number) for number in range(10)),
    COLORS,
    SHAPES,
    SIZES,
    PLACES,
    (*_PAIRS, "nothing"),
)
# Never the ground truth, but right or wrong in ways that dense relevance grades.
_OTHER_ANSWERS = (
    tuple(f"{size} {pair}" for size in SIZES for pair in _PAIRS),
    tuple(f"{one} and {other}" for one, other in itertools.combinations(COLORS, 2)),
)
ANSWERS = tuple(itertools.chain(*_TRUE_ANSWERS, *_OTHER_ANSWERS))
_GROUP = {answer: group for group in _TRUE_ANSWERS for answer in group}


def make_options(answer: str, rng: random.Random) -> list[str]:
    """100 distinct answers in random order: the truth, all answers of its kind, yes and no, and others."""
    options = list(dict.fromkeys((answer, "yes", "no", *_GROUP[answer])))
    taken = set(options)
    options += rng.sample([other for other in ANSWERS if other not in taken], OPTIONS - len(options))
    rng.shuffle(options)
    return options


def relevance(scene: Scene, round_: Round, option: str) -> float:
    """How right an option is, from 0 to 1: the truth 1, a true but shorter or longer answer its shared words.

    To "what is above it" (a small red circle): `red circle` 1, `small red circle` 2/3, `red` 1/2, `blue` 0.
    """
    if option == round_.answer:
        return 1.0
    truth, words = set(round_.answer.split()), set(option.split())
    facts = set(truth)
    if round_.referent >= 0 and truth & {*COLORS, *SHAPES, *SIZES}:
        thing = scene.objects[round_.referent]
        facts |= {COLORS[thing.color], SHAPES[thing.shape], SIZES[thing.size]}
    if not words <= facts:
        return 0.0
    return round(len(words & truth) / len(words | truth), 4)
