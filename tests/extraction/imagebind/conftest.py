"""The small ImageBind whose weights, inputs and outputs were computed with upstream's code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from extraction.imagebind import ImageBind, ImageBindConfig

SPARSE = "__sparse__.modality_preprocessors.text.token_embedding.weight"


@pytest.fixture(scope="session")
def parity(shared: Path) -> Path:
    return shared / "parity/imagebind"


@pytest.fixture(scope="session")
def small_config(parity: Path) -> ImageBindConfig:
    return ImageBindConfig.from_dict(json.loads((parity / "small_config.json").read_text())["config"])


@pytest.fixture(scope="session")
def small_weights(parity: Path, small_config: ImageBindConfig) -> dict[str, Tensor]:
    weights = load_file(parity / "small_weights.safetensors")
    table = torch.zeros(small_config.vocab_size, small_config.text_embed_dim)
    table[weights.pop(f"{SPARSE}.rows").long()] = weights.pop(f"{SPARSE}.values")
    return {**weights, "modality_preprocessors.text.token_embedding.weight": table}


@pytest.fixture(scope="session")
def small_inputs(parity: Path) -> dict[str, Tensor]:
    stored = load_file(parity / "small_inputs.safetensors")
    inputs = {name: x.long() if name == "text" else x.float() / 32 for name, x in stored.items()}
    inputs["vision_views"] = torch.stack([inputs["vision"], inputs["vision"].flip(-1)], dim=1)
    return inputs


@pytest.fixture(scope="session")
def small_model(small_config: ImageBindConfig, small_weights: dict[str, Tensor]) -> ImageBind:
    model = ImageBind(small_config)
    model.load_official_state_dict(small_weights)
    return model.requires_grad_(False)
