"""The pre-norm transformer that all six modalities share (trunk in upstream's words)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention with packed projections, named as torch's `nn.MultiheadAttention` names them.

    With `extra_key`, one learned key and value (`bias_k`, `bias_v`) stand behind the sequence.
    """

    def __init__(self, width: int, heads: int, extra_key: bool = False, causal: bool = False):
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.bias_k = nn.Parameter(torch.empty(1, 1, width)) if extra_key else None
        self.bias_v = nn.Parameter(torch.empty(1, 1, width)) if extra_key else None
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        packed = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        # Each of the three is [B, heads, L, D / heads].
        q, k, v = packed.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.bias_k is not None and self.bias_v is not None:
            k, v = self._append(k, self.bias_k), self._append(v, self.bias_v)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _append(self, rows: Tensor, extra: Tensor) -> Tensor:
        """[B, heads, L, d] and [1, 1, D] -> [B, heads, L + 1, d]."""
        extra = extra.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return torch.cat([rows, extra.expand(len(rows), -1, -1, -1)], dim=2)


class MLP(nn.Module):
    """Two linear layers, four times as wide between them, with the exact (erf) GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, extra_key: bool = False, causal: bool = False):
        super().__init__()
        self.attn = Attention(width, heads, extra_key, causal)
        self.norm_1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width)
        self.norm_2 = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        x = x + self.attn(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class Transformer(nn.Module):
    """A stack of blocks without a final norm (the head has it); vision has one in front (`pre_norm`)."""

    def __init__(
        self,
        width: int,
        blocks: int,
        heads: int,
        pre_norm: bool = False,
        extra_key: bool = False,
        causal: bool = False,
    ):
        super().__init__()
        front = [nn.LayerNorm(width, eps=NORM_EPS)] if pre_norm else []
        self.pre_transformer_layer = nn.Sequential(*front)
        self.blocks = nn.Sequential(*(Block(width, heads, extra_key, causal) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        return self.blocks(self.pre_transformer_layer(x))
