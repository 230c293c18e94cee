"""A scripted conversation about a picture of the mini world, beside the true answers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from malmm.chat.session import ChatSession

REFERS_BACK = 3  # the script holds a question that takes up what was said so many rounds ago
ROUNDS = 6  # of a script, at least


@dataclass(frozen=True)
class ScriptRound:
    """A question, its true answer, and the round that it refers back to (0: the caption, -1: none)."""

    question: str
    answer: str
    depends_on: int


@dataclass(frozen=True)
class Script:
    """A picture's caption and what is asked about it; rounds count from 1."""

    image_id: int
    caption: str
    rounds: tuple[ScriptRound, ...]

    def refers_back(self, number: int) -> int:
        """How many rounds the question of round `number` refers back; 0 where it does not."""
        source = self.rounds[number - 1].depends_on
        return number - source if source >= 1 else 0


def read_mini_dialogues(data: Path, split: str) -> list[Script]:
    """Every dialogue of a split of the mini world in the folder `data`."""
    annotations = json.loads((data / f"visdial_1.0_{split}.json").read_text(encoding="utf-8"))["data"]
    captions = {dialog["image_id"]: dialog["caption"] for dialog in annotations["dialogs"]}
    return [
        Script(
            entry["image_id"],
            captions[entry["image_id"]],
            tuple(ScriptRound(r["question"], r["answer"], r["depends_on"]) for r in entry["rounds"]),
        )
        for entry in json.loads((data / f"mini_{split}_rounds.json").read_text(encoding="utf-8"))
    ]


def choose(scripts: Sequence[Script]) -> Script:
    """The first dialogue with a question that refers back three rounds, or else the farthest.

    It ends with that question, though not before the sixth. What a model answers plays no part.
    """

    def farthest(script: Script) -> tuple[int, int]:
        """(rounds back, three at the most, and minus the first round that goes so far)."""
        numbers = range(1, len(script.rounds) + 1)
        return max((min(script.refers_back(number), REFERS_BACK), -number) for number in numbers)

    chosen = max(scripts, key=lambda script: farthest(script)[0])  # the first among equals
    length = max(-farthest(chosen)[1], ROUNDS)
    return Script(chosen.image_id, chosen.caption, chosen.rounds[:length])


def hold(session: ChatSession, picture: Path, script: Script) -> list[str]:
    """Ask the script's questions about `picture`; returns a line a round, and what the memory holds."""
    session.reset()
    session.show(picture, script.caption)
    width = max(len(round_.question) for round_ in script.rounds)
    lines = [f'conversation about {picture}, "{script.caption}"']
    right = 0
    for number, round_ in enumerate(script.rounds, 1):
        answer = session.ask(round_.question)
        right += answer == round_.answer
        verdict = "right" if answer == round_.answer else f"wrong: {round_.answer}"
        back = script.refers_back(number)
        note = f"  (refers back {back} round{'s' * (back > 1)})" if back else ""
        lines.append(f"{number:3}  {round_.question:{width}}  {answer:16}  {verdict}{note}")
    slots = [", ".join(str(turn.number) for turn in slot.turns) for slot in session.memory()]
    lines.append(f"     {right} of {len(script.rounds)} right")
    return [*lines, f"memory bank: {len(slots)} slots, holding turns " + " | ".join(slots)]
