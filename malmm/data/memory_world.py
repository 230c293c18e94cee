"""The memory world: conversations of many days in the mini world, and questions about earlier ones.

A user shows pictures with captions, asks a few things about them, tells facts about people and talks about
nothing in particular. At the end of every conversation but the first, questions follow whose answers were
given in an earlier one:

    picture           about a scene that is named by what it shows
    picture changed   the scene was shown again and looks otherwise: the newest is right
    picture when      the scene was shown twice and the question says on which day: yesterday, last week, ...
    told              a fact about a person
    told changed      the fact was told again otherwise: the newest is right
    never             a scene that was never shown, a fact that was never told: there is no answer

Near misses of the scenes that are asked for stand among the pictures, other facts of the same people among
the facts. A question's cue fits the pictures of its scene and no other one of that user; some things are
asked for again and again. Everything follows from the seed; a user is the same however many there are.
"""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extraction.files import write_atomically
from malmm.data.memory_life import FORMAT_VERSION, KINDS, Item, MemoryQuestion, MemoryUser, make_user
from malmm.data.mini_scene import draw
from malmm.errors import InputError

__all__ = [
    "FILE", "KINDS", "Item", "MemoryQuestion", "MemoryUser", "MemoryWorld", "read_memory_world",
    "write_memory_world",
]  # fmt: skip

FILE = "memory_world.json"  # written last: what it names is there
_LEAST = {"users": 1, "conversations": 2, "questions": 1}


@dataclass(frozen=True)
class MemoryWorld:
    """A world in its folder."""

    folder: Path
    seed: int
    users: list[MemoryUser]


def write_memory_world(
    out: str | Path, users: int = 12, conversations: int = 10, questions: int = 5, seed: int = 0
) -> Path:
    """Write pictures and `memory_world.json` into the folder `out`; a folder that holds this world stays.

    conversations: of each user; questions: at the end of each conversation but the first. Raises InputError
    where a size is too small or `out` holds something else or cannot be written.
    """
    sizes = {"users": users, "conversations": conversations, "questions": questions}
    for name, least in _LEAST.items():
        if sizes[name] < least:
            raise InputError(f"a memory world of {sizes[name]} {name} cannot be made: at least {least}")
    header = {"format_version": FORMAT_VERSION, "seed": seed, "sizes": sizes}
    folder, pictures = Path(out), Path(out) / "pictures"
    if (folder / FILE).is_file():
        there = _read_json(folder / FILE)
        if header == {key: there.get(key) for key in header}:
            return folder
        raise InputError(f"{folder} holds another memory world: delete it or name another folder")
    made = [make_user(number, conversations, questions, seed) for number in range(users)]
    try:
        if pictures.is_dir():  # of a run that was interrupted
            shutil.rmtree(pictures)
        pictures.mkdir(parents=True)
        for _, topics in made:
            for file, topic in topics.items():
                draw(topic.scene).save(folder / file)
        text = json.dumps({**header, "users": [dataclasses.asdict(user) for user, _ in made]}, indent=1)
        write_atomically(folder / FILE, lambda file: file.write(text.encode()) and None)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"the memory world cannot be written to {folder}: {reason}; name another folder"
        ) from error
    return folder


def read_memory_world(folder: str | Path) -> MemoryWorld:
    """What `write_memory_world` wrote. Raises InputError where the folder holds no such world."""
    folder = Path(folder)
    content = _read_json(folder / FILE)
    if content.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{folder / FILE} is of another format version: make the world again")
    users = [
        MemoryUser(
            user["name"],
            [Item(**item) for item in user["items"]],
            [MemoryQuestion(**{**q, "evidence": tuple(q["evidence"])}) for q in user["questions"]],
        )
        for user in content["users"]
    ]
    return MemoryWorld(folder, content["seed"], users)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"there is no memory world in {path.parent}: no {path.name}") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: make the world again") from error
