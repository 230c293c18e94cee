"""Processes that change a store until they are killed: `python killed_writer.py STORE PICTURES`.

For each line on stdin one is forked, without a new Python; the line is the seed of what it does. Each change
is announced on stdout before it is made, and confirmed when the store has acknowledged it.
"""

import hashlib
import json
import os
import random
import sys
from pathlib import Path

import numpy as np

from malmm.memory.record import Draft, Media
from malmm.memory.sqlite import SQLiteStore

WIDTH = 64
ENCODER = {"name": "test"}


def vector_of(text: str) -> np.ndarray:
    """The embedding that a text has here."""
    return np.random.default_rng(list(text.encode())).normal(size=WIDTH).astype(np.float32)


def say(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def picture(folder: Path, text: str) -> Media:
    path = folder / f"{text}.png"
    path.write_bytes(text.encode() * 1000)
    return Media(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), copied=True)


def write(store: Path, pictures: Path, seed: int) -> None:
    """Add, touch, change and delete for ever."""
    chance = random.Random(seed)
    memory = SQLiteStore(store, WIDTH, ENCODER)
    own = [record.id for record in memory.records("ann", limit=1000)]
    step = 0
    while True:
        step += 1
        kind = chance.choice(["add", "add", "add", "touch", "update", "delete"])
        if kind == "add":
            texts = [f"text{seed}of{step}of{n}" for n in range(chance.randint(1, 3))]
            shown = picture(pictures, texts[0]) if chance.random() < 0.3 else None
            say(doing="add", texts=texts)
            own += memory.add([Draft("ann", text, vector_of(text), media=shown) for text in texts])
            say(done=own[-len(texts) :])
        elif own:
            ids = chance.sample(own, min(len(own), 1 if kind == "update" else 5))
            say(doing=kind, ids=ids, text=f"changed{seed}of{step}")
            if kind == "touch":
                memory.touch("ann", ids)
            elif kind == "update":
                memory.update("ann", ids[0], text=f"changed{seed}of{step}")
            else:
                memory.delete("ann", ids)
                own = [id for id in own if id not in ids]
            say(done=ids)


def nursery(store: Path, pictures: Path) -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            write(store, pictures, int(line))
        say(child=child)
        os.waitpid(child, 0)
        say(ended=child)


if __name__ == "__main__":
    nursery(Path(sys.argv[1]), Path(sys.argv[2]))
