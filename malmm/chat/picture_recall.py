"""Which remembered picture a question is about, if it is not the one before the model."""

import time

from torch import Tensor

from malmm.memory.gate import Gate, read_gate
from malmm.memory.recall import Recall, Recalled
from malmm.memory.record import Filters, Record, Vector

PICTURES = Filters(modality="vision", role="user")


def choose_picture(
    recall: Recall, user: str, question: str, embedding: Vector, present: Tensor | None
) -> Recalled | None:
    """The remembered picture that is to come back for a question; None: what is there stays.

    embedding: the question's, [C]; present: the picture or sound before the model, [1, C]. Where nothing is
    before the model, the picture that the question recalls best comes back. Otherwise only one that the
    question names by its time, or that is alike the question by `recall.picture_margin` more than the present
    one is: a short question ("what color is it") is about as much like one picture as like another. Captions
    play no part: with them the right picture came first half as often (docs/memory.md).
    """
    settings = recall.settings.recall
    if not settings.pictures:
        return None
    found = recall.search(
        question,
        user,
        1,
        PICTURES,
        explain=True,
        touch=False,
        embedding=embedding,
        modality="text",
        words=False,
    )
    best = next(iter(found), None)
    if best is None or present is None:
        return best
    now = present[0].cpu().numpy()  # [C]
    if float(best.record.embedding @ now) > settings.duplicates:
        return None
    margin = float((best.record.embedding - now) @ embedding)
    named = settings.gate and _names_time(read_gate(question, time.time(), settings.zone), best.record)
    return best if named or margin > settings.picture_margin else None


def _names_time(gate: Gate, record: Record) -> bool:
    """Whether a question names the time of a record: its day, say, or that it was the first."""
    if gate.window is None:
        return gate.order == "oldest"
    return gate.window[0] <= record.created < gate.window[1]
