"""A folder of weights with a safetensors file for each tower, so that a load reads only what is asked for.

vision.safetensors, text.safetensors, ...    tensors under the official names; the metadata say which tower
                                             it is and the sha256 of the file that it was taken from
"""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from extraction.errors import InputError
from extraction.files import write_atomically
from extraction.imagebind.config import MODALITIES

SUFFIX = ".safetensors"
TOWER, SOURCE = "imagebind_tower", "source_sha256"  # keys of the metadata
DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
}


def write_tower(folder: Path, modality: str, tensors: Mapping[str, Tensor], source_sha256: str) -> Path:
    """Write a tower's file, tensor by tensor: more than one of them is never in memory. Returns its path."""
    # As the format asks: large elements first, so that each is aligned to its size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {
        "__metadata__": {"format": "pt", TOWER: modality, SOURCE: source_sha256},
    }
    end = 0
    for name in names:
        value = tensors[name]
        start, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": DTYPES[value.dtype], "shape": [*value.shape], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def write(file: BinaryIO) -> None:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)

    path = folder / f"{modality}{SUFFIX}"
    write_atomically(path, write)
    return path


def towers_in(folder: Path) -> list[str]:
    """The modalities whose towers lie in `folder`."""
    return [modality for modality in MODALITIES if (folder / f"{modality}{SUFFIX}").is_file()]


def read_towers(folder: Path, modalities: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of the towers of `modalities`, mapped into memory.

    Raises InputError, naming the file, where one is absent, damaged or taken from other weights.
    """
    source_sha256(folder)
    tensors: dict[str, Tensor] = {}
    for modality in modalities:
        path = folder / f"{modality}{SUFFIX}"
        if not path.is_file():
            present = ", ".join(towers_in(folder))
            raise InputError(
                f"the weights folder {folder} has no {modality} tower, only {present}: convert weights that "
                "have it"
            )
        with _opened(path) as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def source_sha256(folder: Path) -> str:
    """SHA-256 of the weights file that all towers of `folder` were taken from.

    Raises InputError where there is none, or where two come from different weights.
    """
    found: dict[str, Path] = {}
    for modality in towers_in(folder):
        path = folder / f"{modality}{SUFFIX}"
        with _opened(path) as file:
            metadata = file.metadata() or {}
        if metadata.get(TOWER) != modality or SOURCE not in metadata:
            raise InputError(
                f"{path} is no {modality} tower that `python -m extraction convert` wrote: convert again"
            )
        found.setdefault(metadata[SOURCE], path)
    if not found:
        raise InputError(
            f"the folder {folder} holds no towers of ImageBind: make them with `python -m extraction convert`"
        )
    if len(found) > 1:
        one, other, *_ = found.values()
        raise InputError(f"{one} and {other} were taken from different weights: convert again")
    return next(iter(found))


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"the weights file {path} is damaged: convert it again ({error})") from error
