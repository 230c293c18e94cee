"""Which remembered picture a question is about, if it is not the one before the model."""

import time

from torch import Tensor

from malmm.memory.gate import read_gate
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
    one is: a short question ("what color is it") is about as much like one picture as like another.
    """
    settings = recall.settings.recall
    if not settings.pictures:
        return None
    found = recall.search(
        question, user, 1, PICTURES, explain=True, touch=False, embedding=embedding, modality="text"
    )
    best = next(iter(found), None)
    if best is None or present is None:
        return best
    now = present[0].cpu().numpy()  # [C]
    if float(best.record.embedding @ now) > settings.duplicates:
        return None
    margin = float((best.record.embedding - now) @ embedding)
    named = _in_asked_time(recall, question, best.record)
    return best if named or margin > settings.picture_margin else None


def _in_asked_time(recall: Recall, question: str, record: Record) -> bool:
    """Whether the question names a time by words, and the record is of it."""
    settings = recall.settings.recall
    if not settings.gate:
        return False
    window = read_gate(question, time.time(), settings.zone).window
    return window is not None and window[0] <= record.created < window[1]
