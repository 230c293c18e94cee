"""Time to the first words of an answer as a conversation grows, with a long-term memory and without.

    python benchmarks/chat_turns.py                        # the embedded default, questions 2, 10 and 50
    python benchmarks/chat_turns.py --records 100000       # of earlier conversations

A picture of the mini world is shown, then one question after the other is asked. `memory`: `MemorySession`
with a store in which the user has `--records` earlier memories; every question searches them, and when its
answer is whole the two are written down. `none`: `ChatSession`. The memory bank's length is fixed and what
was computed for earlier turns is kept, so that a question's time should not grow with its number.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from measure import Timing, machine, show
from PIL import Image

from extraction.encoder import Encoder
from malmm.chat.loading import load_session
from malmm.chat.remembering import MemorySession
from malmm.chat.session import ChatSession
from malmm.data.mini import Dialogue, draw, make_world_item
from malmm.memory.record import Draft
from malmm.memory.sqlite import SQLiteStore

USER = "me"
BATCH = 1000  # records of one transaction
COLUMNS = ("", "question", "first words ms", "CPU ms", "times 2nd", "answer ms", "CPU ms", "encoded")
CAPTION = """medians; first words: from the question to the first piece of the answer; times 2nd: as long as
after the conversation's second question, by CPU; answer: to its end; encoded: texts that
went through ImageBind"""


@dataclass
class Costs:
    """Of one question's number in several conversations."""

    first: list[Timing] = field(default_factory=list)
    whole: list[Timing] = field(default_factory=list)
    encoded: list[int] = field(default_factory=list)


def since(wall: float, cpu: float) -> Timing:
    """What has passed since."""
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def count_texts(encoder: Encoder) -> list[int]:
    """A list that gets, with every call of the encoder, how many texts it is given."""
    counts: list[int] = []
    encode = encoder.encode_texts

    def counting(texts: list[str]) -> object:
        counts.append(len(texts))
        return encode(texts)

    encoder.encode_texts = counting  # type: ignore[method-assign, assignment]
    return counts


def converse(
    session: ChatSession, dialogue: Dialogue, picture: Image.Image, costs: dict[int, Costs], texts: list[int]
) -> None:
    """One conversation, up to the last question that is looked at."""
    session.reset()
    session.show(picture, dialogue.caption)
    questions: Iterator[str] = itertools.cycle(round_.question for round_ in dialogue.rounds)
    for number in range(1, max(costs) + 1):
        question, before = next(questions), sum(texts)
        wall, cpu = time.perf_counter(), time.process_time()
        pieces = session.stream(question)
        next(pieces, "")
        first = since(wall, cpu)
        for _ in pieces:
            pass
        if number in costs:
            costs[number].first.append(first)
            costs[number].whole.append(since(wall, cpu))
            costs[number].encoded.append(sum(texts) - before)


def fill(store: SQLiteStore, records: int) -> None:
    """Memories of earlier conversations, in random directions."""
    rng = np.random.default_rng(0)
    for start in range(0, records, BATCH):
        vectors = rng.standard_normal((min(BATCH, records - start), store.width), dtype=np.float32)
        store.add([Draft(USER, f"something said before, {start + row}", vector, created=1.7e9 + start + row)
                   for row, vector in enumerate(vectors)])  # fmt: skip


def rows_of(name: str, costs: dict[int, Costs]) -> list[list[str]]:
    """Of the table."""
    second = median(timing.cpu for timing in next(iter(costs.values())).first)
    rows = []
    for number, cost in costs.items():
        row = [name, str(number)]
        for timings in (cost.first, cost.whole):
            row += [
                f"{1e3 * median(t.wall for t in timings):.1f}",
                f"{1e3 * median(t.cpu for t in timings):.1f}",
            ]
        row.insert(4, f"{median(timing.cpu for timing in cost.first) / second:.2f}")
        rows.append([*row, f"{median(cost.encoded):g}"])
    return rows


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, nargs="+", default=[2, 10, 50], help="to look at")
    parser.add_argument("--conversations", type=int, default=5)
    parser.add_argument("--records", type=int, default=10_000, help="of the user before (default 10000)")
    parser.add_argument("--config", type=Path, help="of the model (default: the embedded default)")
    arguments = parser.parse_args()
    print(machine())
    plain = load_session(arguments.config)
    texts = count_texts(plain.encoder)
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.db"
        with SQLiteStore(path, plain.encoder.width, plain.encoder.identity()) as store:
            fill(store, arguments.records)
            remembering = MemorySession(plain.model, plain.encoder, store, USER)
            sessions = {"none": plain, f"memory, {arguments.records} records": remembering}
            for name, session in sessions.items():
                costs = {number: Costs() for number in sorted(arguments.questions)}
                for index in range(arguments.conversations):
                    _, scene, dialogue = make_world_item("val", index)
                    converse(session, dialogue, draw(scene), costs, texts)
                rows += rows_of(name, costs)
    show("", COLUMNS, rows, CAPTION)


if __name__ == "__main__":
    main()
