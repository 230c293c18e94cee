"""The memory world: answers follow from what was shown and told, and evidence was there before."""

import json
from collections import Counter

import pytest
from PIL import Image

from malmm.data.memory_life import KINDS, MemoryUser, make_user
from malmm.data.memory_topics import RELATIONS, Topic
from malmm.data.memory_world import FILE, read_memory_world, write_memory_world
from malmm.data.mini_answers import ANSWERS
from malmm.errors import InputError

USERS = 6


@pytest.fixture(scope="module")
def lives() -> list[tuple[MemoryUser, dict[str, Topic]]]:
    return [make_user(number, conversations=10, questions=5, seed=7) for number in range(USERS)]


def test_a_user_follows_from_the_seed_whatever_the_others(tmp_path) -> None:
    one, two = (write_memory_world(tmp_path / str(n), users=n, conversations=3, seed=5) for n in (1, 2))
    first, both = (read_memory_world(folder) for folder in (one, two))
    assert first.users[0] == both.users[0]
    other = make_user(0, 3, 5, seed=6)[0]
    assert other.items != first.users[0].items
    picture = next(item.picture for item in first.users[0].items if item.picture)
    assert (one / picture).read_bytes() == (two / picture).read_bytes()


def test_every_kind_is_asked_and_every_conversation_but_the_first(lives) -> None:
    questions = [question for user, _ in lives for question in user.questions]
    kinds = Counter(question.kind for question in questions)
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) >= 0.05 * len(questions)
    for user, _ in lives:
        assert Counter(q.conversation for q in user.questions) == {
            f"{user.name}-c{c:02d}": 5 for c in range(1, 10)
        }


def test_evidence_is_there_before_the_question_in_an_earlier_conversation(lives) -> None:
    for user, _ in lives:
        items = {item.id: item for item in user.items}
        order = [item.id for item in user.items]
        for question in user.questions:
            assert (question.answer is None) == (question.kind == "never") == (not question.evidence)
            for name in question.evidence:
                assert items[name].time < question.time
                assert items[name].conversation < question.conversation
                before = [i for i in order if items[i].time < question.time]
                assert question.records == len(before) - before.index(name)
                numbers = [int(text[-2:]) for text in (question.conversation, items[name].conversation)]
                assert question.conversations == numbers[0] - numbers[1]


def test_answers_follow_from_the_pictures(lives) -> None:
    """Of all pictures so far the cue fits those of its scene alone, and the right one has the answer."""
    for user, pictures in lives:
        items = {item.id: item for item in user.items}
        for question in user.questions:
            if not question.cue:
                continue
            before = [i for i in user.items if i.picture and i.time < question.time]
            words = question.cue.partition(" that i showed")[0].partition(", as it is now")[0]
            topics = [topic for topic in pictures.values() if topic.cue == words]
            if question.kind == "never":
                assert not any(named(question.cue, pictures[i.picture]) for i in before)
                continue
            right = items[question.evidence[0]]
            assert pictures[right.picture].answer == question.answer
            fitting = [i for i in before if topics[0].fits(pictures[i.picture].scene)]
            assert right in fitting
            assert {pictures[i.picture].cue for i in fitting} == {words}
            if question.kind == "picture":
                assert fitting == [right]
            elif question.kind == "picture changed":
                assert len(fitting) > 1 and right == fitting[-1]
                assert pictures[fitting[-2].picture].answer != question.answer
            else:
                assert len(fitting) > 1


def named(cue: str, topic: Topic) -> bool:
    """Whether all objects that a cue names are in a scene, read from the words."""
    present = Counter(thing.name for thing in topic.scene.objects)
    wanted: Counter[str] = Counter()
    for part in cue.removeprefix("in the picture with ").split(" and "):
        number, _, name = part.partition(" ")
        count = {"two": 2, "three": 3}.get(number, 1)
        wanted[name.removesuffix("s") if count > 1 else name] += count
    return wanted <= present


def test_answers_follow_from_what_was_told(lives) -> None:
    """Read from the sentences: the newest statement of the relation about the person has the answer."""
    for user, _ in lives:
        for question in user.questions:
            if question.cue:
                continue
            relation, person = next(
                (relation, person)
                for relation in RELATIONS.values()
                for person in question.question.split()
                if relation.question.format(person) == question.question.removesuffix(" now")
            )
            told = [
                (item.id, value)
                for item in user.items
                if item.time < question.time and item.role == "user"
                for value, words in zip(relation.values, relation.told, strict=True)
                if item.text.removeprefix("now ") == relation.statement.format(person, words)
            ]
            if question.kind == "never":
                assert not told
                continue
            assert ((told[-1][0],), told[-1][1]) == (question.evidence, question.answer)
            assert (len(told) > 1) == (question.kind == "told changed")


def test_no_word_of_the_conversation_answers_a_question_about_a_picture(lives) -> None:
    for user, pictures in lives:
        for item in user.items:
            if item.picture:
                assert item.text != pictures[item.picture].question
        following = zip(user.items, user.items[1:], strict=False)
        for shown, said in following:
            if shown.picture and not said.picture:
                assert said.text != pictures[shown.picture].question


def test_answers_are_of_the_mini_world(lives) -> None:
    answers = {q.answer for user, _ in lives for q in user.questions if q.answer}
    assert answers <= set(ANSWERS)


def test_what_is_written_is_read_back(tmp_path) -> None:
    folder = write_memory_world(tmp_path / "world", users=1, conversations=3, questions=2, seed=3)
    world = read_memory_world(folder)
    assert world.users == [make_user(0, 3, 2, 3)[0]]
    assert world.seed == 3
    for item in world.users[0].items:
        if item.picture:
            with Image.open(folder / item.picture) as picture:
                assert picture.size == (128, 128)
    stamp = (folder / FILE).stat().st_mtime_ns
    assert write_memory_world(folder, users=1, conversations=3, questions=2, seed=3) == folder
    assert (folder / FILE).stat().st_mtime_ns == stamp


def test_another_world_in_the_folder_is_refused(tmp_path) -> None:
    folder = write_memory_world(tmp_path, users=1, conversations=2, questions=1, seed=3)
    with pytest.raises(InputError, match="another memory world"):
        write_memory_world(folder, users=1, conversations=2, questions=1, seed=4)
    with pytest.raises(InputError, match="at least 2"):
        write_memory_world(tmp_path / "other", conversations=1)
    with pytest.raises(InputError, match="no memory world"):
        read_memory_world(tmp_path / "nothing")
    content = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps({**content, "format_version": 0}))
    with pytest.raises(InputError, match="another format version"):
        read_memory_world(folder)
