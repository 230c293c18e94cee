"""Films as ImageBind takes them: five clips of two seconds, two frames of each, three square crops."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from extraction.errors import InputError
from extraction.preprocess.clips import clip_times
from extraction.preprocess.frames import read_frames
from extraction.preprocess.image import MAX_ASPECT_RATIO, MEAN, STD

NUM_CLIPS, NUM_CROPS, CLIP_FRAMES = 5, 3, 2


def load_videos(paths: Sequence[str | Path], size: int = 224) -> Tensor:
    """Film files -> float32 [n, 15, 3, 2, size, size]: views, RGB, frames, height, width.

    Views are clip by clip, and of each clip its three crops. Only the frames that are used are kept. A film
    cut short counts as what can be decoded of it, with a warning that names it. Raises InputError naming the
    first unusable file.
    """
    films = torch.empty(len(paths), NUM_CLIPS * NUM_CROPS, 3, CLIP_FRAMES, size, size)
    for film, path in zip(films, paths, strict=True):
        read = read_frames(path, _frame_numbers, partial(preprocess_frame, size=size))
        for view, clip in zip(film.split(NUM_CROPS), clip_frames(read.rate, read.num_frames), strict=True):
            for position, number in enumerate(clip):
                view[:, :, position] = read.frames[number]
    return films


def preprocess_frame(pixels: Tensor, size: int = 224) -> Tensor:
    """One frame, uint8 [height, width, 3] -> float32 [3 crops, 3, size, size].

    The shorter side comes to `size`, bilinear without antialiasing, normalised as pictures are; the crops are
    the start, the centre and the end of the longer side. Source: pytorchvideo's short_side_scale and
    uniform_crop. Raises InputError for a frame that is too thin.
    """
    height, width = pixels.shape[:2]
    short, long = min(height, width), max(height, width)
    if not 0 < long <= MAX_ASPECT_RATIO * short:
        raise InputError(
            f"the frame of {width} x {height} pixels is too thin: "
            f"one side may be at most {MAX_ASPECT_RATIO} times the other"
        )
    scaled = math.floor(long / short * size)  # in this order, as upstream rounds
    image = resize(pixels, *((scaled, size) if width < height else (size, scaled))) / 255
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    image = ((image - mean) / std).permute(2, 0, 1)
    offsets = (0, math.ceil((scaled - size) / 2), scaled - size)
    return torch.stack([image.narrow(1 if width < height else 2, offset, size) for offset in offsets])


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """uint8 [H, W, 3] -> float32 [height, width, 3], bilinear between the four nearest pixels.

    As torch's interpolate (align_corners False), whose last bits differ between its versions; and a frame is
    never in memory as floats at its own size.
    """
    above, below, down = _neighbours(pixels.shape[0], height)
    left, right, across = _neighbours(pixels.shape[1], width)

    def rows(numbers: Tensor) -> Tensor:
        chosen = pixels[numbers]
        return torch.lerp(chosen[:, left].float(), chosen[:, right].float(), across[:, None])

    return torch.lerp(rows(above), rows(below), down[:, None, None])


def clip_frames(rate: float, count: int) -> list[tuple[int, int]]:
    """The numbers of the first and the last frame of each clip of a film: `count` frames, `rate` a second.

    Where a film is so slow that no frame begins within a clip, both are the frame shown meanwhile.
    """
    clips = []
    for start, end in clip_times(count / rate, NUM_CLIPS):
        last = min(math.ceil(rate * float(end)), count) - 1
        clips.append((min(math.ceil(rate * float(start)), last), last))
    return clips


def _frame_numbers(rate: float, count: int) -> set[int]:
    return {number for clip in clip_frames(rate, count) for number in clip}


def _neighbours(old: int, new: int) -> tuple[Tensor, Tensor, Tensor]:
    """For `new` positions along `old` pixels: the pixels before and behind each, and the latter's weight."""
    place = ((torch.arange(new) + 0.5) * torch.tensor(old / new) - 0.5).clamp(min=0)
    before = place.floor().clamp(max=old - 1)
    return before.long(), (before.long() + 1).clamp(max=old - 1), place - before
