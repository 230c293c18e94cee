"""bitsandbytes' 4-bit layers on a CPU: which shapes they can hold, and their fast form for generation."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from malmm.errors import InputError

BLOCK = 64  # numbers that share one scale
TILE = 32  # rows that the packed form interleaves


def four_bit_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, layer) of the 4-bit layers that lie on the CPU."""
    for name, module in model.named_modules():
        if hasattr(module, "support_avx512bf16_for_cpu") and module.weight.device.type == "cpu":
            yield name, module


def check_rows(path: str, model: nn.Module) -> None:
    """InputError where bitsandbytes' CPU code would decode the rows of a 4-bit layer wrongly, without a word.

    It expects every row to begin with a new block, which needs in_features to be a multiple of 64 (found by
    comparing with the unquantised product). On a GPU blocks may reach over rows.
    """
    for name, layer in four_bit_layers(model):
        if layer.in_features % BLOCK:
            raise InputError(
                f"language.precision nf4 is impossible for {path} on a CPU, because the rows of {name} hold "
                f"{layer.in_features} numbers, no multiple of {BLOCK}: "
                "set language.precision to int8, bf16 or fp32"
            )


class PackedLayers:
    """A second form of 4-bit weights for CPUs with AVX512-BF16, in use only while text is generated.

    bitsandbytes changes a layer to that form for good when it first computes without gradient. The form
    multiplies one token about five times as fast, but it silently passes no gradient on, and the way back
    changes the scales: a model that has generated once could no longer be trained through. Here the plain
    form stays, and the packed one is made beside it (the same size again) at the first generation.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = [layer for _, layer in four_bit_layers(model) if layer.support_avx512bf16_for_cpu]
        _allow_packing(layers, False)
        self._layers = [layer for layer in layers if layer.out_features % TILE == 0]
        self._packed: list[tuple[torch.Tensor, Any]] | None = None

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Compute with the packed form inside the `with`; no gradient may be asked for there."""
        plain = self._forms()
        # bitsandbytes packs a layer at its first use, and changes the state object that it is given.
        self._load(self._packed or [(data, copy.deepcopy(state)) for data, state in plain])
        _allow_packing(self._layers, True)
        try:
            yield
            self._packed = self._forms()
        finally:
            _allow_packing(self._layers, False)
            self._load(plain)

    def _forms(self) -> list[tuple[torch.Tensor, Any]]:
        return [(layer.weight.data, layer.weight.quant_state) for layer in self._layers]

    def _load(self, forms: list[tuple[torch.Tensor, Any]]) -> None:
        for layer, (data, state) in zip(self._layers, forms, strict=True):
            layer.weight.data, layer.weight.quant_state = data, state


def _allow_packing(layers: list[Any], allowed: bool) -> None:
    for layer in layers:
        layer.support_avx512bf16_for_cpu = allowed
