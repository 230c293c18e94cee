"""Pictures as ImageBind takes them: shorter side to 224, centre crop, CLIP's channel statistics."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from extraction.errors import InputError

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
# The longer side is scaled before the crop; a strip thinner than this would fill the memory on the way.
MAX_ASPECT_RATIO = 500
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def load_image(path: str | Path, upright: bool = False, background: str | None = None) -> Image.Image:
    """Read a picture as RGB. Raises InputError, naming the file, where it is missing, damaged or no picture.

    The weights were trained without two corrections that a person may want: `upright` turns the picture as
    its EXIF orientation says; `background` (a colour such as "white") is laid under transparent pixels, whose
    hidden colours show otherwise.
    """
    try:
        with Image.open(path) as image:
            image.load()
            turned = ImageOps.exif_transpose(image) if upright else image
            if background is not None:
                layer = turned.convert("RGBA")
                turned = Image.alpha_composite(Image.new("RGBA", layer.size, background), layer)
            return turned.convert("RGB")
    except FileNotFoundError:
        raise InputError(f"there is no picture {path}: correct the path") from None
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise InputError(f"the picture {path} cannot be read: replace or remove it ({error})") from error


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre size x size pixels after bringing the shorter side to `size`, bicubic, 8 bits per channel.

    Source: torchvision's Resize and CenterCrop as upstream's `load_and_transform_vision_data` uses them.
    """
    short, long = min(image.size), max(image.size)
    if long > MAX_ASPECT_RATIO * short:
        raise InputError(
            f"the picture of {image.width} x {image.height} pixels is too thin: "
            f"one side may be at most {MAX_ASPECT_RATIO} times the other"
        )
    width, height = (size if side == short else int(size * long / short) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)  # half to even, as upstream
    return resized.crop((left, top, left + size, top + size))


def preprocess_image(image: Image.Image, size: int = 224) -> Tensor:
    """One picture -> normalised float32 [3, size, size]. Raises InputError for a picture that is too thin."""
    square = resize_and_crop(image.convert("RGB"), size)
    pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(size, size, 3)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return ((pixels.permute(2, 0, 1) / 255 - mean) / std).contiguous()


def load_images(paths: Sequence[str | Path], size: int = 224) -> Tensor:
    """Picture files -> float32 [n, 3, size, size]. Raises InputError naming the first unusable file."""
    tensors = []
    for path in paths:
        image = load_image(path)
        try:
            tensors.append(preprocess_image(image, size))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    return torch.stack(tensors) if tensors else torch.empty(0, 3, size, size)
