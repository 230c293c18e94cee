"""Recalled memories made by hand, for tests of what is done with them."""

import numpy as np

from malmm.memory.recall import Recalled
from malmm.memory.record import Media, Modality, Record, Terms

NOW = 1_700_000_000.0  # Tuesday 2023-11-14 22:13:20 UTC
DAY = 86400.0


def recalled(
    text: str,
    *,
    id: int = 1,
    age: float = DAY,
    role: str = "user",
    modality: Modality = "text",
    path: str | None = None,
) -> Recalled:
    """One memory, `age` seconds old at NOW."""
    record = Record(
        id=id,
        user="me",
        text=text,
        embedding=np.array([1.0], np.float32),
        modality=modality,
        role=role,
        conversation="",
        turn=None,
        media=None if path is None else Media(path, "0" * 64),
        created=NOW - age,
        accessed=NOW - age,
        access_count=0,
        saliency=0.0,
        pinned=False,
    )
    return Recalled(record, 1.0, Terms(1.0, 0.0, 0.0, 0.0), None, 1)
