"""Log-probabilities of labelled tokens, with a gradient that needs few activations in memory.

Gradient has to pass through a frozen language model to the visual tokens in front of it. Kept for all rows of
a batch, its activations are most of the memory of training. But the gradient of a row's sum is that of this
row's embeddings alone: it is taken as soon as a few rows have been read, and then their activations are gone.
Nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

IGNORED = -100  # the label of a position whose token is not learned, as transformers has it
# Tokens of the rows that are read together, padding included: as few as keep the products efficient. A GPU
# needs more of them, or it waits for its kernels to be launched.
TOKENS_AT_ONCE, TOKENS_AT_ONCE_ON_GPU = 512, 4096


def label_logprobs(causal: Any, embeddings: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """See `LanguageModel.label_logprobs`."""
    embeddings = embeddings.to(causal.get_input_embeddings().weight.dtype)
    counts = (labels[:, 1:] != IGNORED).sum(dim=1)
    if torch.is_grad_enabled() and embeddings.requires_grad and _gives_only_their_gradient(causal):
        return _InGroups.apply(embeddings, causal, mask, labels), counts
    return _read(causal, embeddings, mask, labels), counts


def _gives_only_their_gradient(causal: Any) -> bool:
    """Whether nothing in the model learns, and gradients need not be scaled for fp16 on their way."""
    device = causal.get_input_embeddings().weight.device.type
    scaled = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    return not scaled and not any(parameter.requires_grad for parameter in causal.parameters())


def _read(causal: Any, embeddings: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """The sums [R] of rows that go through the model together."""
    decoder = causal.get_decoder()
    hidden = decoder(inputs_embeds=embeddings, attention_mask=mask, use_cache=False).last_hidden_state
    row, position = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    logits = causal.get_output_embeddings()(hidden[row, position]).float()  # [labels, V]
    logprobs = -functional.cross_entropy(logits, labels[row, position + 1], reduction="none")
    return logprobs.new_zeros(len(labels)).index_add(0, row, logprobs)


class _InGroups(torch.autograd.Function):
    """`_read` of a few rows at a time, which keeps of them their sums and the gradient of these."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, causal: Any, mask: Tensor, labels: Tensor) -> Tensor:
        """embeddings [R, S, E], mask and labels [R, S] -> sums [R]."""
        sums = embeddings.new_zeros(len(labels), dtype=torch.float32)
        gradient = torch.zeros_like(embeddings)
        for rows, length in _groups(mask):
            part = embeddings[rows, :length].detach().requires_grad_()  # [rows, length, E]
            with torch.enable_grad():
                found = _read(causal, part, mask[rows, :length], labels[rows, :length])
                total = found.sum()
            # A backward pass runs in the types of its forward pass, outside autocast.
            with torch.autocast(embeddings.device.type, enabled=False):
                (gradient[rows, :length],) = torch.autograd.grad(total, part)
            sums[rows] = found.detach()
        ctx.save_for_backward(gradient)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sums: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of each row, times that of its sum."""
        (gradient,) = ctx.saved_tensors
        return (of_sums[:, None, None] * gradient).to(gradient.dtype), None, None, None


def _groups(mask: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Rows of like lengths that are read together, and how many of their columns hold tokens."""
    columns = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths = (mask * columns).amax(dim=1)  # [R]; what stands behind is padding for every row of the group
    most = TOKENS_AT_ONCE if mask.device.type == "cpu" else TOKENS_AT_ONCE_ON_GPU
    order = lengths.argsort(stable=True).tolist()
    while order:
        size = max(most // int(lengths[order[-1]]), 1)
        rows = torch.tensor(order[-size:], device=mask.device)
        yield rows, int(lengths[rows].max())
        del order[-size:]
