"""From one weights file to a folder of towers (extraction.imagebind.towers)."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from extraction.configuration import refuse_unknown
from extraction.errors import InputError
from extraction.files import TEMPORARY_SUFFIX, sync_folder
from extraction.imagebind import MODALITIES
from extraction.imagebind.config import read_config
from extraction.imagebind.towers import DTYPES, source_sha256, towers_in, write_tower
from extraction.imagebind.weights import empty_imagebind, fill, read_state_dict, weights_sha256


@dataclass(frozen=True)
class Tower:
    """A tower's file and the number of tensors in it."""

    path: Path
    tensors: int


def convert_weights(
    weights: Path, out: Path, config: str = "huge", modalities: Sequence[str] | None = None
) -> list[Tower]:
    """Write the towers of `modalities`, or all that `config` names, of a weights file into the folder `out`.

    `config`: huge, or a JSON file of sizes. The tensors keep their dtype. The folder has its name only when
    it is whole; where it is there already and holds the same towers of the same weights nothing is done.
    Raises InputError, naming the first keys that do not fit, for other weights, and for a folder that holds
    something else.
    """
    if weights.is_dir():
        raise InputError(f"{weights} is a folder: name the weights file that is to be converted")
    sizes = read_config(config)
    refuse_unknown(modalities or (), MODALITIES, "--modality")
    chosen = [name for name in MODALITIES if name in (modalities or sizes.modalities)]
    model = empty_imagebind(sizes, chosen)
    tensors = read_state_dict(weights)
    for name, value in tensors.items():
        if isinstance(value, Tensor) and value.dtype not in DTYPES:
            raise InputError(f"{weights}: {name} holds {value.dtype}, and weights are floating-point numbers")
    fill(model, tensors, weights)
    source = weights_sha256(weights)
    values = model.state_dict()
    towers = {
        modality: {name: value for name, value in values.items() if name.split(".")[1] == modality}
        for modality in chosen
    }
    if not _is_converted(out, chosen, source):
        _write(out, towers, source)
    return [Tower(out / f"{modality}.safetensors", len(towers[modality])) for modality in chosen]


def _is_converted(out: Path, chosen: list[str], source: str) -> bool:
    """Tell whether `out` is there and the wanted folder. Raises InputError for a folder of other things."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if out.is_dir() and towers_in(out) == chosen and source_sha256(out) == source:
        return True
    raise InputError(f"{out} exists and holds something else: name another folder with --out")


def _write(out: Path, towers: dict[str, dict[str, Tensor]], source: str) -> None:
    temporary = out.with_name(out.name + TEMPORARY_SUFFIX)
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    try:
        temporary.mkdir(parents=True)
        for modality, tensors in towers.items():
            write_tower(temporary, modality, tensors, source)
        temporary.replace(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(out.parent)
