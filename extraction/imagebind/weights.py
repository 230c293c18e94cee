"""Reading ImageBind weights from a file, or from a folder of towers, without building random ones first."""

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from extraction.errors import InputError
from extraction.files import sha256_of
from extraction.imagebind.config import MODALITIES, ImageBindConfig
from extraction.imagebind.model import ImageBind
from extraction.imagebind.towers import read_towers, source_sha256, towers_in


def load_imagebind(
    weights_path: str | Path,
    config: ImageBindConfig,
    modalities: tuple[str, ...] = ("vision", "text"),
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> ImageBind:
    """A frozen ImageBind with the towers of `modalities`, in eval mode.

    The file holds a state dict under the official names, as .pth or .safetensors, or is a folder of towers
    (`python -m extraction convert`). It is mapped into memory: on a CPU in float32 its pages are the model's
    weights, and only the wanted towers are ever read. The logit scales stay in float32.
    Raises InputError for a missing, damaged or unfitting file, and where it lacks one of the towers.
    """
    model = empty_imagebind(config, modalities)
    names = model.state_dict().keys()
    state_dict = {
        key: _convert(key, value, dtype, device) if key in names and isinstance(value, Tensor) else value
        for key, value in read_state_dict(weights_path, modalities).items()
    }
    fill(model, state_dict, weights_path)
    return model.requires_grad_(False)


def empty_imagebind(config: ImageBindConfig, modalities: Sequence[str]) -> ImageBind:
    """The towers of `modalities` on the meta device: names and shapes without values."""
    with torch.device("meta"):
        return ImageBind(replace(config, modalities=tuple(modalities)))


def fill(model: ImageBind, state_dict: Mapping[str, Tensor], path: str | Path) -> None:
    """Give `model` the tensors of `path`.

    Raises InputError, naming the first keys that do not fit, and the tower that is wholly absent.
    """
    try:
        model.load_official_state_dict(state_dict)
    except InputError as error:
        present = _towers(state_dict)
        absent = [modality for modality in model.config.modalities if modality not in present]
        lacks = f" (no {absent[0]} tower, only {', '.join(present)})" if absent and present else ""
        raise InputError(f"{path}{lacks}: {error}") from None


def read_state_dict(path: str | Path, modalities: Sequence[str] = MODALITIES) -> dict[str, Tensor]:
    """The tensors of a .pth or .safetensors file, mapped into memory where the format allows it.

    Of a folder of towers those of `modalities`. Raises InputError, naming the file, where it is missing,
    damaged or not a state dict.
    """
    if Path(path).is_dir():
        return read_towers(Path(path), modalities)
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
    """SHA-256 of a weights file, in hexadecimal; a folder of towers has that of the file they come from.

    Raises InputError where there is no such file.
    """
    return source_sha256(Path(path)) if Path(path).is_dir() else sha256_of(_existing(path))


def available_towers(path: str | Path) -> list[str]:
    """The modalities of which a weights file or folder holds anything."""
    return towers_in(Path(path)) if Path(path).is_dir() else _towers(read_state_dict(path))


def _towers(keys: Iterable[object]) -> list[str]:
    present = {str(key).split(".")[1] for key in keys if str(key).count(".")}
    return [modality for modality in MODALITIES if modality in present]


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise InputError(f"there is no weights file {path}: download imagebind_huge.pth or correct the path")
    return Path(path)


def _convert(key: str, value: Tensor, dtype: torch.dtype, device: str | torch.device) -> Tensor:
    keep = key.endswith("log_logit_scale")
    return value.to(device=device, dtype=torch.float32 if keep else dtype)
