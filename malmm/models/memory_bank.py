"""The memory bank of MA-LMM: a list of slots in time that never grows beyond a set length.

A new frame is appended to the bank. When the bank has become too long, the two neighbours in time that are
most alike are averaged into one slot (Memory Bank Compression of MA-LMM, CVPR 2024). That happens for every
token position on its own: the sky may have merged frames 3 and 4 while the dog in front of it has not.

Shapes: B batch, K slots, N token positions, C width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def compress(bank: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Merge the most similar pair of neighbours at every position; one slot fewer comes back.

    Args:
        bank: [B, K, N, C] slots in order of time, any floating type.
        sizes: [B, K, N] how many frames each slot stands for.

    Returns:
        bank [B, K-1, N, C] and sizes [B, K-1, N]; the sizes of a position keep their sum.

    Raises:
        ValueError: the bank has fewer than two slots, or `sizes` does not fit it.
    """
    return merge(bank, sizes, most_similar_pair(bank))


def most_similar_pair(bank: Tensor) -> Tensor:
    """Where slots i and i+1 are most alike by cosine: i, int64 [B, N]; the first such i if several are equal.

    Sizes play no part. A zero vector is like nothing: its similarity is 0.
    """
    if bank.dim() != 4 or bank.shape[1] < 2:
        raise ValueError(f"a bank to compress is [B, K, N, C] with K >= 2, this one is {list(bank.shape)}")
    bank = bank.detach().to(_compute_type(bank))
    similarity = F.cosine_similarity(bank[:, :-1], bank[:, 1:], dim=-1)  # [B, K-1, N]
    return similarity.max(dim=1).indices  # [B, N]


def merge(values: Tensor, sizes: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
    """Average slots i and i+1, i = pair, weighted by their sizes; later slots move up by one.

    Args:
        values: [B, K, N, C] what the slots hold, or anything affine in it (keys and values of attention).
        sizes: [B, K, N] how many frames each slot stands for.
        pair: int64 [B, N].

    Returns:
        values [B, K-1, N, C] and sizes [B, K-1, N].
    """
    if sizes.shape != values.shape[:3]:
        raise ValueError(f"sizes {list(sizes.shape)} do not fit a bank of shape {list(values.shape)}")
    slot = torch.arange(values.shape[1] - 1, device=values.device)[None, :, None]  # [1, K-1, 1]
    pair = pair[:, None]  # [B, 1, N]
    old, new = sizes[:, :-1], sizes[:, 1:]  # [B, K-1, N] each
    merged_sizes = torch.where(slot <= pair, old, 0) + torch.where(slot >= pair, new, 0)

    # Slot k of the result mixes slots k and k+1: k alone before the pair, k+1 alone behind it.
    exact = values.to(_compute_type(values))
    share = new.to(exact.dtype) / (old + new)  # [B, K-1, N] of the newer slot
    share = torch.where(slot < pair, 0, torch.where(slot > pair, 1, share)).to(exact.dtype)
    mixed = torch.lerp(exact[:, :-1], exact[:, 1:], share[..., None])  # [B, K-1, N, C]
    return mixed.to(values.dtype), merged_sizes


def _compute_type(values: Tensor) -> torch.dtype:
    """Half types are compared and averaged in float32: the cosine's eps of 1e-8 is zero in float16."""
    return torch.promote_types(values.dtype, torch.float32)


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """Slots in order of time. Never changed in place: every method gives a new bank."""

    slots: Tensor  # [B, K, N, C]
    sizes: Tensor  # [B, K, N] float32, how many frames each slot stands for

    @classmethod
    def empty(cls, like: Tensor) -> MemoryBank:
        """A bank without slots for frames shaped as `like` [B, N, C]."""
        batch, tokens, width = like.shape
        sizes = like.new_empty(batch, 0, tokens, dtype=torch.float32)
        return cls(like.new_empty(batch, 0, tokens, width), sizes)

    def append(self, frame: Tensor) -> MemoryBank:
        """The bank with `frame` [B, N, C] as its newest slot, of size 1.

        Raises:
            ValueError: the frame has another batch size, number of tokens or width than the bank.
        """
        batch, _, tokens, width = self.slots.shape
        if frame.shape != (batch, tokens, width):
            raise ValueError(
                f"a frame of shape {list(frame.shape)} does not fit the memory bank, which holds "
                f"{[batch, tokens, width]} a slot: start a new state for other batches, texts or frames"
            )
        return MemoryBank(
            torch.cat([self.slots, frame[:, None]], dim=1),
            torch.cat([self.sizes, self.sizes.new_ones(batch, 1, tokens)], dim=1),
        )

    def fit(self, length: int) -> MemoryBank:
        """The bank with at most `length` slots, compressed as often as that takes."""
        slots, sizes = self.slots, self.sizes
        while slots.shape[1] > length:
            slots, sizes = compress(slots, sizes)
        return MemoryBank(slots, sizes)

    def detach(self) -> MemoryBank:
        """The same bank, cut off from the graph that made it."""
        return MemoryBank(self.slots.detach(), self.sizes)

    def nbytes(self) -> int:
        """Memory of the slots and sizes in bytes."""
        return self.slots.nbytes + self.sizes.nbytes

    def frames(self, batch: int = 0, token: int = 0) -> list[list[int]]:
        """Which frames each slot stands for at one position: sizes 1, 2, 1 are frames [0], [1, 2], [3]."""
        ranges, start = [], 0
        for size in self.sizes[batch, :, token].round().long().tolist():
            ranges.append(list(range(start, start + size)))
            start += size
        return ranges
