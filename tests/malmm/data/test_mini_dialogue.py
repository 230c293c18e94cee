"""The mini world's dialogues: a solver that reads the words must agree; no words give answers away."""

import random
import re
from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmm.data.mini import make_world_item
from malmm.data.mini_dialogue import make_dialogue
from malmm.data.mini_scene import COLORS, PLACES, SHAPES, SIZES, Scene, make_scene
from malmm.data.mini_talk import Dialogue, Round

PLACE = r"(?:in|at|on) the ((?:top|bottom)? ?(?:left|right)?|top|bottom|middle)"
TOWARD = r"(left of|right of|above|below) it"


class Solver:
    """Answers from scene, caption and the questions so far; knows the rules, not how dialogues are made."""

    def __init__(self, scene: Scene, caption: str) -> None:
        self.things = [
            {
                "color": COLORS[t.color],
                "shape": SHAPES[t.shape],
                "size": SIZES[t.size],
                "place": PLACES[t.place],
                "cell": divmod(t.place, 3),
            }
            for t in scene.objects
        ]
        self.asked = 0
        self.it: tuple[int, int] | None = None  # object, round that brought it
        self.attribute: tuple[str, int] | None = None  # of the last question, and the round that named it
        nouns = re.findall(rf"an? ((?:(?:{'|'.join(COLORS)}) )?(?:shape|{'|'.join(SHAPES)}))\b", caption)
        if len(nouns) == 1:
            self.it = (self.only(nouns[0]), 0)

    def only(self, noun: str) -> int:
        found = self.matching(noun)
        assert len(found) == 1, f"'{noun}' fits {len(found)} objects"
        return found[0]

    def matching(self, noun: str) -> list[int]:
        words = [word.removesuffix("s") for word in noun.split()]
        words = [word for word in words if word not in ("one", "shape")]
        assert set(words) <= {*COLORS, *SHAPES}
        return [i for i, t in enumerate(self.things) if set(words) <= {t["color"], t["shape"]}]

    def toward(self, direction: str) -> list[int]:
        assert self.it is not None
        row, column = self.things[self.it[0]]["cell"]

        def distance(i: int) -> int:
            r, c = self.things[i]["cell"]
            steps = {"left of": column - c, "right of": c - column, "above": row - r, "below": r - row}
            same_line = r == row if direction.endswith("of") else c == column
            return steps[direction] if same_line else 0

        return sorted((i for i in range(len(self.things)) if distance(i) > 0), key=distance)[:1]

    def solve(self, question: str) -> dict[str, Any]:
        """The answer, the object it is about and the round that the question depends on."""
        self.asked += 1
        before = self.it
        uses_it = bool(re.search(r"\b(it|that)\b", question))
        if uses_it:
            assert before is not None, f"nothing for 'it' in '{question}'"
        attribute, self.attribute = self.attribute, None
        answer, found, depends_on = self.read(question, attribute)
        if found is not None and not (found and before and uses_it and found[0] == before[0]):
            self.it = (found[0], self.asked) if len(found) == 1 else None
        referent = found[0] if found and len(found) == 1 else -1
        if uses_it:
            assert before is not None
            depends_on = before[1]
        return {"answer": answer, "referent": referent, "depends_on": depends_on}

    def read(self, question: str, attribute: tuple[str, int] | None) -> tuple[str, list[int] | None, int]:
        if match := re.fullmatch(r"how many (?:are (\w+)|(.+?)(?: are there| do you see))", question):
            return str(len(self.matching(match[1] or match[2]))), None, -1
        if match := re.fullmatch(r"(?:is there|do you see) another one of that (color|shape)", question):
            it = self.it[0] if self.it else -1
            like = [
                i for i, t in enumerate(self.things) if i != it and t[match[1]] == self.things[it][match[1]]
            ]
            return "yes" if like else "no", like, -1
        if match := re.fullmatch(
            r"(what is|what do you see|is there anything|do you see anything) (.+)", question
        ):
            if place := re.fullmatch(PLACE, match[2]):
                found = [i for i, t in enumerate(self.things) if t["place"] == place[1]]
                return self.content(match[1], found), found, -1
            if direction := re.fullmatch(TOWARD, match[2]):
                found = self.toward(direction[1])
                return self.content(match[1], found), found, -1
        if match := re.fullmatch(r"(?:is there|do you see|can you see) an? (.+)", question):
            found = self.matching(match[1])
            return "yes" if found else "no", found, -1
        if match := re.fullmatch(r"(?:and|what about) (.+)", question):
            assert attribute is not None, f"'{question}' follows no attribute question"
            index = self.phrase(match[1])
            self.attribute = attribute
            return self.value(index, attribute[0]), [index], attribute[1]
        for pattern, group in (
            (r"(?:what|which) (color|shape) is (.+)", None),
            (r"what is the (color|shape) of (.+)", None),
            (r"(where) (?:is|do you see) (.+)", "place"),
            (r"(how big|what size) is (.+)", "size"),
            (r"is (?P<phrase>.+) (?P<attribute>large|big|small)", None),
        ):
            if match := re.fullmatch(pattern, question):
                words = match.groupdict() or {"attribute": match[1], "phrase": match[2]}
                self.attribute = (group or words["attribute"], self.asked)
                index = self.phrase(words["phrase"])
                return self.value(index, self.attribute[0]), [index], -1
        raise AssertionError(f"not understood: '{question}'")

    def phrase(self, words: str) -> int:
        if words == "it":
            return self.it[0] if self.it else -1
        if match := re.fullmatch(f"the one {TOWARD}", words):
            (found,) = self.toward(match[1])
            return found
        return self.only(words.removeprefix("the "))

    def value(self, index: int, attribute: str) -> str:
        if attribute in ("large", "big", "small"):
            return "yes" if self.things[index]["size"] == attribute.replace("big", "large") else "no"
        return self.things[index][attribute]

    def content(self, words: str, found: list[int]) -> str:
        if "anything" in words:
            return "yes" if found else "no"
        return f"{self.things[found[0]]['color']} {self.things[found[0]]['shape']}" if found else "nothing"


@pytest.fixture(scope="module")
def world() -> list[tuple[Scene, Dialogue]]:
    return [make_world_item("train", index)[1:] for index in range(2000)]


@pytest.fixture(scope="module")
def rounds(world: list[tuple[Scene, Dialogue]]) -> list[tuple[int, Round]]:
    return [numbered for _, dialogue in world for numbered in enumerate(dialogue.rounds, 1)]


def _check(scene: Scene, dialogue: Dialogue) -> None:
    solver = Solver(scene, dialogue.caption)
    assert (solver.it[0] if solver.it else -1) == dialogue.caption_object
    for round_ in dialogue.rounds:
        solved = solver.solve(round_.question)
        expected = {"answer": round_.answer, "referent": round_.referent, "depends_on": round_.depends_on}
        assert solved == expected, f"{dialogue.caption}: {round_.question}"


@settings(deadline=None)
@given(st.integers())
def test_solver_agrees_for_any_seed(seed: int) -> None:
    rng = random.Random(seed)
    scene = make_scene(rng)
    _check(scene, make_dialogue(scene, rng))


def test_solver_agrees_in_the_world(world: list[tuple[Scene, Dialogue]]) -> None:
    for scene, dialogue in world:
        _check(scene, dialogue)


def test_captions_tell_the_truth(world: list[tuple[Scene, Dialogue]]) -> None:
    generic = 0
    for scene, dialogue in world:
        solver = Solver(scene, "")
        for noun in re.findall(r"\ban? ((?:\w+ )?(?:shape|circle|square|triangle|star))\b", dialogue.caption):
            solver.only(noun)
        if number := re.search(r"\d", dialogue.caption):
            assert int(number[0]) == len(scene.objects)
        generic += "some shapes" in dialogue.caption
    assert 0.2 < generic / len(world) < 0.35


def test_questions_and_answers_are_written_as_in_visdial(world: list[tuple[Scene, Dialogue]]) -> None:
    for _, dialogue in world:
        assert dialogue.caption == dialogue.caption.lower()
        for round_ in dialogue.rounds:
            assert re.fullmatch(r"[a-z ]+", round_.question)
            assert re.fullmatch(r"[a-z]+( [a-z]+){0,2}|\d", round_.answer)


def test_enough_rounds_refer_back_and_some_far(rounds: list[tuple[int, Round]]) -> None:
    distances = [number - round_.depends_on for number, round_ in rounds if round_.depends_on >= 0]
    assert 0.42 < len(distances) / len(rounds) < 0.49
    assert min(distances) == 1 and max(distances) <= 5
    assert 0.2 < sum(distance >= 2 for distance in distances) / len(distances) < 0.4
    assert {number for number, round_ in rounds if round_.depends_on >= 0} == set(range(1, 11))


def test_every_follow_up_needs_more_than_its_words(rounds: list[tuple[int, Round]]) -> None:
    words = {"it", "that", "and", "about"}
    for _, round_ in rounds:
        assert bool(words & set(round_.question.split())) == (round_.depends_on >= 0), round_.question


def test_words_of_a_question_tell_little_of_its_answer(rounds: list[tuple[int, Round]]) -> None:
    for key, limit in ((lambda q: " ".join(q.split()[:2]), 0.34), (lambda q: q, 0.385)):
        answers: dict[str, Counter[str]] = defaultdict(Counter)
        for _, round_ in rounds:
            answers[key(round_.question)][round_.answer] += 1
        guessed = sum(counter.most_common(1)[0][1] for counter in answers.values())
        assert guessed / len(rounds) < limit


def test_yes_and_no_are_balanced_in_every_kind(rounds: list[tuple[int, Round]]) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for _, round_ in rounds:
        if round_.answer in ("yes", "no"):
            answers[round_.kind][round_.answer] += 1
    assert set(answers) >= {"exist", "anything", "neighbor_any", "another", "large", "small", "it_large"}
    for kind, counter in answers.items():
        assert 0.4 < counter["yes"] / counter.total() < 0.6, kind
    assert (
        0.47
        < sum(counter["yes"] for counter in answers.values())
        / sum(counter.total() for counter in answers.values())
        < 0.53
    )


def test_nothing_is_asked_twice_of_an_object(world: list[tuple[Scene, Dialogue]]) -> None:
    for _, dialogue in world:
        asked = [(r.referent, r.attribute) for r in dialogue.rounds if r.attribute]
        assert len(asked) == len(set(asked))
