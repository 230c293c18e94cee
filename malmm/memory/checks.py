"""What every store checks of the embeddings that it is given, and of whose embeddings it holds."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from malmm.errors import InputError
from malmm.memory.record import Draft, Vector

ROLES = ("user", "assistant")


def unit_vector(embedding: ArrayLike, width: int) -> Vector:
    """The embedding at unit length, float32 [C].

    Raises InputError for another shape, and for zero, NaN or infinity, which have no direction.
    """
    vector = np.asarray(embedding, np.float64)
    if vector.shape != (width,):
        raise InputError(
            f"an embedding of shape {list(vector.shape)} does not fit a memory of width {width}: "
            "use the encoder that the memory was made with"
        )
    length = np.linalg.norm(vector)
    if not 0 < length < np.inf:  # NaN compares false
        raise InputError("an embedding that is zero, infinite or not a number has no direction to remember")
    return (vector / length).astype(np.float32)


def check_draft(draft: Draft) -> None:
    """Raises InputError for a role, a saliency or a time that no store keeps."""
    if draft.role not in ROLES:
        raise InputError(f"a record comes from {' or '.join(ROLES)}, not from {draft.role!r}")
    check_saliency(draft.saliency)
    if draft.created is not None and not np.isfinite(draft.created):
        raise InputError(f"a record's time is seconds since the epoch, not {draft.created}")


def check_saliency(saliency: float) -> None:
    """Raises InputError for a saliency outside [0, 1]."""
    if not 0 <= saliency <= 1:
        raise InputError(f"a record's saliency lies between 0 and 1, {saliency} does not")


def encode_identity(encoder: Mapping[str, Any]) -> str:
    """What identifies the embeddings, as a store keeps it: JSON with sorted keys."""
    return json.dumps(encoder, sort_keys=True)


def check_identity(
    where: str, width: int, encoder: str, own_width: int, own_encoder: Mapping[str, Any]
) -> None:
    """Compare what the store `where` was made with, and what is asked of it. Raises InputError that says so.

    width, encoder: the store's, as `encode_identity` wrote it; own_...: of whoever opens it.
    """
    if width != own_width:
        raise InputError(
            f"the memory {where} holds embeddings of width {width}, the encoder's are {own_width} wide: "
            "open it with the encoder that it was made with, or name another memory"
        )
    theirs, ours = json.loads(encoder), json.loads(encode_identity(own_encoder))
    if theirs != ours:
        key = next(key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key))
        raise InputError(
            f"the memory {where} holds embeddings of another encoder ({key} is {theirs.get(key)} there and "
            f"{ours.get(key)} here): open it with the encoder that it was made with, or name another memory"
        )
