"""The sizes of an ImageBind model, under the names of the upstream constructor."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from extraction.errors import InputError
from extraction.files import locate

MODALITIES = ("vision", "text", "audio", "depth", "thermal", "imu")
WHERE = "ImageBind configuration:"


class TowerSize(NamedTuple):
    """Width, number of blocks and number of heads of one modality's transformer."""

    width: int
    blocks: int
    heads: int


@dataclass(frozen=True)
class ImageBindConfig:
    """Sizes of the six towers; the defaults are those of the published `imagebind_huge`.

    The fields up to `imu_drop_path` are the upstream constructor's. The drop paths act in upstream's
    training only: they are kept so that a configuration survives a round trip, and change nothing here.
    The last four are this project's: upstream fixes them at the values that are the defaults here.
    """

    video_frames: int = 2
    kernel_size: tuple[int, int, int] = (2, 14, 14)
    audio_kernel_size: int = 16
    audio_stride: int = 10
    out_embed_dim: int = 1024
    vision_embed_dim: int = 1280
    vision_num_blocks: int = 32
    vision_num_heads: int = 16
    audio_embed_dim: int = 768
    audio_num_blocks: int = 12
    audio_num_heads: int = 12
    audio_num_mel_bins: int = 128
    audio_target_len: int = 204
    audio_drop_path: float = 0.1
    text_embed_dim: int = 1024
    text_num_blocks: int = 24
    text_num_heads: int = 16
    depth_embed_dim: int = 384
    depth_kernel_size: int = 16
    depth_num_blocks: int = 12
    depth_num_heads: int = 8
    depth_drop_path: float = 0.0
    thermal_embed_dim: int = 768
    thermal_kernel_size: int = 16
    thermal_num_blocks: int = 12
    thermal_num_heads: int = 12
    thermal_drop_path: float = 0.0
    imu_embed_dim: int = 512
    imu_kernel_size: int = 8
    imu_num_blocks: int = 6
    imu_num_heads: int = 8
    imu_drop_path: float = 0.7
    image_size: int = 224
    vocab_size: int = 49408
    context_length: int = 77
    modalities: tuple[str, ...] = MODALITIES

    def __post_init__(self) -> None:
        self._check_kernels()
        self._check_modalities()
        for name, value in asdict(self).items():
            if name == "modalities" or name.endswith("_drop_path"):
                continue
            sizes = value if name == "kernel_size" else (value,)
            if not all(isinstance(size, int) and size > 0 for size in sizes):
                raise InputError(f"{WHERE} {name} must be a positive whole number, not {value!r}")
        for modality in self.modalities:
            self._check_tower(modality)

    def _check_kernels(self) -> None:
        kernel = self.kernel_size
        if not isinstance(kernel, tuple) or len(kernel) != 3 or kernel[1] != kernel[2]:
            raise InputError(
                f"{WHERE} kernel_size must be [frames, side, side], not {self.to_dict()['kernel_size']}"
            )
        # Upstream takes other values of these and then ignores them or fails inside the forward pass.
        if self.video_frames != 2 or kernel[0] != 2 or self.imu_kernel_size != 8:
            raise InputError(
                f"{WHERE} video_frames and kernel_size[0] must be 2 and imu_kernel_size 8, "
                f"not {self.video_frames}, {kernel[0]} and {self.imu_kernel_size}"
            )

    def _check_modalities(self) -> None:
        names = self.modalities
        if not isinstance(names, tuple) or not names or len({*names} & {*MODALITIES}) < len(names):
            known = ", ".join(MODALITIES)
            raise InputError(f"{WHERE} modalities must name some of {known}, each once, not {names!r}")

    def _check_tower(self, modality: str) -> None:
        width, _, heads = self.tower(modality)
        if width % heads:
            names = f"{modality}_embed_dim {width} cannot be divided among {modality}_num_heads {heads}"
            raise InputError(f"{WHERE} {names}")
        patch = self.kernel_size[1] if modality == "vision" else getattr(self, f"{modality}_kernel_size", 0)
        input_size = (
            min(self.audio_num_mel_bins, self.audio_target_len) if modality == "audio" else self.image_size
        )
        if patch > input_size:
            raise InputError(
                f"{WHERE} the {modality} input of {input_size} is smaller than its patch of {patch}"
            )

    @classmethod
    def huge(cls) -> "ImageBindConfig":
        """The published model: 1,200,786,990 numbers in `imagebind_huge.pth`."""
        return cls()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ImageBindConfig":
        """A configuration from upstream's constructor arguments and this project's own four.

        What is missing is huge's. Raises InputError for an unknown name (with the nearest known one) or an
        impossible size.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
                raise InputError(f"{WHERE} unknown key {name!r}; the nearest known key is {near!r}")
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list | tuple)}
        return cls(**{**values, **lists})

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them; `from_dict` gives the same configuration back."""
        lists = {name: list(value) for name, value in asdict(self).items() if isinstance(value, tuple)}
        return {**asdict(self), **lists}

    def tower(self, modality: str) -> TowerSize:
        """Sizes of one modality's transformer."""
        parts = ("embed_dim", "num_blocks", "num_heads")
        return TowerSize(*(getattr(self, f"{modality}_{part}") for part in parts))


def read_config(name: str) -> ImageBindConfig:
    """The configuration that `name` stands for: huge, or a JSON file with the fields.

    Raises InputError, naming the file, where it cannot be read or holds something else.
    """
    if name == "huge":
        return ImageBindConfig.huge()
    path = locate(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"the encoder's config must be huge or a JSON file of sizes, and {path} cannot be "
            "read: correct the path"
        ) from error
    except ValueError as error:
        raise InputError(f"the encoder configuration {path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"the encoder configuration {path} must hold ImageBindConfig's fields")
    return ImageBindConfig.from_dict(content)
