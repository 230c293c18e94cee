"""Saliency of a new memory: how much it stands out from what is known, or how a language model rates it."""

import logging
import re
from typing import TYPE_CHECKING

import numpy as np

from malmm.memory.record import Draft, Filters, Query, Weights
from malmm.memory.reminders import CLOSE, OPEN, neutralise
from malmm.memory.store import MemoryStore

if TYPE_CHECKING:
    from malmm.memory.reflection import Reader

_log = logging.getLogger(__name__)
_SAMPLE = (
    64  # newest records of the modality: the mean cosine with them, without the nearest, is the usual one
)
_ROUNDING = 0.01  # well above what a stored copy's cosine lacks to 1: where all are copies, a copy is not new
# At the beginning only, and no "1 to 10": a number in the middle of a sentence may be anything.
_RATING = re.compile(
    r"\W*(?:(?:rating|importance|answer|score)\W*)?(10|[1-9])(?![\d.,]*\d)(?!\s*(?:to|-|–)\s*10)", re.I
)


def novelty(store: MemoryStore, draft: Draft, now: float) -> float:
    """How new a memory is to its user, in [0, 1]: (1 - highest cosine) / (1 - usual cosine), clipped.

    Both are with the user's records of the same modality: cosines across modalities are on another scale
    (see ranking.py), and unrelated texts of such a space are far from 0. 0: it is there already;
    1: nothing is more like it than is usual, or the user has nothing of the kind yet.
    """
    kind = Filters(modality=draft.modality)
    vector = (draft.embedding / np.linalg.norm(draft.embedding)).astype(np.float32)
    nearest = store.search(Query(vector, draft.user, now, k=1, weights=Weights(), filters=kind))
    if not nearest:
        return 1.0
    known = np.stack([r.embedding for r in store.records(draft.user, kind, limit=_SAMPLE)])  # [n, C]
    others = np.sort(np.clip(known @ vector, 0.0, 1.0))[:-1]
    usual = others.mean() if len(others) else 0.0
    return float(np.clip((1.0 - nearest[0].terms.relevance) / max(1.0 - usual, _ROUNDING), 0.0, 1.0))


def rate(draft: Draft, reader: "Reader", template: str) -> float | None:
    """A language model's rating of a memory from 1 to 10, as 0 to 1; None where it gave none.

    As the importance of Generative Agents (Park et al. 2023, section 4.1).
    """
    written = reader.read(template.format(reminder=f"{OPEN}{neutralise(draft.text)}{CLOSE}"))
    found = _RATING.match(written)
    return (int(found[1]) - 1) / 9 if found else None


def saliency(store: MemoryStore, draft: Draft, now: float, reader: "Reader | None", template: str) -> float:
    """The model's rating where there is a reader, else, or where it gives none, the novelty."""
    if reader is not None:
        rated = rate(draft, reader, template)
        if rated is not None:
            return rated
        _log.warning("the language model gave no rating from 1 to 10: novelty stands in for it")
    return novelty(store, draft, now)
