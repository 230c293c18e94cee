"""The scripted conversation: which dialogue it is, and that the answers are the model's."""

from pathlib import Path

from malmm.chat.scripted import Script, ScriptRound, choose, hold, read_mini_dialogues
from malmm.chat.session import ChatSession
from malmm.data.mini import write_world


def script(image_id: int, *depends_on: int) -> Script:
    rounds = (ScriptRound(f"question {n}?", "yes", source) for n, source in enumerate(depends_on, 1))
    return Script(image_id, "a caption", tuple(rounds))


def test_the_first_dialogue_that_refers_back_three_rounds() -> None:
    near = script(1, -1, 1, 2, 0, -1, 5, -1, -1)
    far = script(2, -1, 0, -1, -1, -1, -1, -1, 5, -1, -1)
    farther = script(3, -1, -1, -1, -1, 1, -1, -1)
    assert choose([near, far, farther]) == Script(2, "a caption", far.rounds[:8])
    assert choose([farther, far]) == Script(3, "a caption", farther.rounds[:6])
    assert choose([near]) == Script(1, "a caption", near.rounds[:6])
    assert choose([script(4, *[-1] * 10)]).image_id == 4


def test_the_mini_world_has_one(tmp_path: Path) -> None:
    write_world(tmp_path / "world", train=1, val=30, test=1)
    scripts = read_mini_dialogues(tmp_path / "world", "val")
    assert len(scripts) == 30
    chosen = choose(scripts)
    numbers = range(1, len(chosen.rounds) + 1)
    assert len(chosen.rounds) >= 6
    assert any(chosen.refers_back(number) >= 3 for number in numbers)
    assert sum(chosen.refers_back(number) > 0 for number in numbers) >= 2


def test_answers_come_from_the_model_and_are_judged(session: ChatSession, parts: Path) -> None:
    session.show(parts / "red.png", "a caption")
    answers = [session.ask("question 1?"), session.ask("question 2?")]
    rounds = (ScriptRound("question 1?", answers[0], -1), ScriptRound("question 2?", "no such answer", 1))
    lines = hold(session, parts / "red.png", Script(1, "a caption", rounds))
    assert lines[1].endswith("right")
    assert lines[2].endswith("wrong: no such answer  (refers back 1 round)")
    assert answers[1] in lines[2]
    assert lines[3].strip() == "1 of 2 right"
    assert lines[4] == "memory bank: 3 slots, holding turns 0 | 1 | 2"
