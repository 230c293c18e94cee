"""Reading ImageBind weights from a file without building random ones first."""

import zipfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from extraction.errors import InputError
from extraction.files import sha256_of
from extraction.imagebind.config import ImageBindConfig
from extraction.imagebind.model import ImageBind


def load_imagebind(
    weights_path: str | Path,
    config: ImageBindConfig,
    modalities: tuple[str, ...] = ("vision", "text"),
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> ImageBind:
    """A frozen ImageBind with the towers of `modalities`, in eval mode.

    The file holds a state dict under the official names, as .pth or .safetensors. It is mapped into memory:
    on a CPU in float32 its pages are the model's weights, and only the wanted towers are ever read.
    The logit scales stay in float32. Raises InputError for a missing, damaged or unfitting file.
    """
    with torch.device("meta"):
        model = ImageBind(replace(config, modalities=tuple(modalities)))
    names = model.state_dict().keys()
    state_dict = {
        key: _convert(key, value, dtype, device) if key in names and isinstance(value, Tensor) else value
        for key, value in read_state_dict(weights_path).items()
    }
    try:
        model.load_official_state_dict(state_dict)
    except InputError as error:
        raise InputError(f"{weights_path}: {error}") from None
    return model.requires_grad_(False)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .pth or .safetensors file, mapped into memory where the format allows it.

    Raises InputError, naming the file, where it is missing, damaged or not a state dict.
    """
    path = _existing(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Files of torch before 1.6 are no zip archives and cannot be mapped. torch 2.1 maps by a str alone.
        mmap = zipfile.is_zipfile(path)
        state_dict = torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # on foreign bytes, torch's reader raises whatever its unpickler stumbles over
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the weights file {path} is damaged: fetch it again ({reason})") from error
    if not isinstance(state_dict, dict):
        raise InputError(f"the weights file {path} holds no state dict but a {type(state_dict).__name__}")
    return state_dict


def weights_sha256(path: str | Path) -> str:
    """SHA-256 of a weights file, in hexadecimal. Raises InputError where there is no such file."""
    return sha256_of(_existing(path))


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise InputError(f"there is no weights file {path}: download imagebind_huge.pth or correct the path")
    return Path(path)


def _convert(key: str, value: Tensor, dtype: torch.dtype, device: str | torch.device) -> Tensor:
    keep = key.endswith("log_logit_scale")
    return value.to(device=device, dtype=torch.float32 if keep else dtype)
