"""What each modality accepts, and the sentence that refuses what upstream misreads or fails on later."""

from torch import Tensor

from extraction.errors import InputError
from extraction.imagebind.config import MODALITIES, ImageBindConfig

IMU_CHANNELS, IMU_SAMPLES = 6, 2000
# Number of axes of a batch: the first without clips, the others with.
AXES = {"vision": (4, 5, 6), "text": (2,), "audio": (4, 5), "depth": (4, 5), "thermal": (4, 5), "imu": (3, 4)}


def fold_clips(modality: str, x: Tensor | None, config: ImageBindConfig) -> tuple[Tensor, int]:
    """One modality's input as a batch of items, and the number of clips per batch row.

    An item is a picture [3, S, S], a video clip [3, T, S, S], a row of ids [L], a log-mel [1, mel, frames],
    a depth or thermal map [1, S, S] or an IMU record [6, 2000]. A batch is [B, *item], or [B, clips, *item];
    a video always has the axis of clips. Returns ([B * clips, *item], clips).
    Raises InputError for everything else.
    """
    if modality not in config.modalities:
        known = "this model was built with" if modality in MODALITIES else "ImageBind has"
        names = config.modalities if modality in MODALITIES else MODALITIES
        raise InputError(f"there is no modality {modality!r} here: {known} {', '.join(names)}")
    if not isinstance(x, Tensor):
        raise InputError(
            f"{modality} input must be a tensor, not {type(x).__name__}: leave out what is absent"
        )
    if x.numel() == 0:
        raise InputError(f"{modality} input is empty: its shape is {list(x.shape)}")
    if x.is_floating_point() == (modality == "text"):
        kind = "whole numbers" if modality == "text" else "floating-point numbers"
        raise InputError(f"{modality} input must be {kind}, not {x.dtype}")
    axes = AXES[modality]
    if x.ndim not in axes:
        counts = " or ".join(map(str, axes))
        raise InputError(f"{modality} input must have {counts} axes, not the shape {list(x.shape)}")
    has_clips = x.ndim > axes[0]
    if modality == "vision" and has_clips and x.shape[2] != 3:
        raise InputError(
            f"vision input {list(x.shape)} has no 3 colours on its third axis: several pictures are "
            "[batch, clips, 3, S, S] and videos [batch, clips, 3, frames, S, S], also where there is one clip"
        )
    items, clips = (x.flatten(0, 1), x.shape[1]) if has_clips else (x, 1)
    _check_item(modality, items, config)
    return items, clips


def _check_item(modality: str, items: Tensor, config: ImageBindConfig) -> None:
    if modality == "vision":
        _check_vision(items, config.kernel_size[1])
    elif modality == "text":
        _check_text(items, config)
    elif modality == "imu":
        # Upstream cuts up to seven surplus samples; a wrong length is more likely a mistake than a wish.
        _check_shape(modality, items, (IMU_CHANNELS, IMU_SAMPLES))
    elif modality == "audio":
        _check_shape(modality, items, (1, config.audio_num_mel_bins, config.audio_target_len))
    else:
        _check_shape(modality, items, (1, config.image_size, config.image_size))


def _check_shape(modality: str, items: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(items.shape[1:]) != shape:
        wanted = ", ".join(map(str, shape))
        raise InputError(f"{modality} input must be [batch, {wanted}] per clip, not {list(items.shape)}")


def _check_vision(items: Tensor, patch: int) -> None:
    channels, (height, width) = items.shape[1], items.shape[-2:]
    if channels != 3:
        raise InputError(f"vision input must be [batch, 3, S, S], not {list(items.shape)}")
    if items.ndim == 5 and items.shape[2] not in (1, 2):
        raise InputError(f"vision input must have 1 or 2 frames per clip, not {items.shape[2]}")
    if height != width or height < patch:
        raise InputError(
            f"vision input must be square and {patch} pixels wide or more, not {height} x {width}"
        )


def _check_text(ids: Tensor, config: ImageBindConfig) -> None:
    if ids.shape[1] > config.context_length:
        raise InputError(
            f"text input must have at most {config.context_length} ids a row, not {ids.shape[1]}"
        )
    wrong = ids[(ids < 0) | (ids >= config.vocab_size)]
    if wrong.numel():
        raise InputError(
            f"text input has id {int(wrong[0])}, but the model knows 0 to {config.vocab_size - 1}: "
            "use the vocabulary that belongs to its weights"
        )
