"""Placeholder pictures, for dialogues whose photographs are not at hand.

They show nothing of the photograph: what is measured with them says that the pipeline runs, never how well it
sees.
"""

import hashlib

from PIL import Image, ImageDraw

_SHAPES = 6


def placeholder_picture(image_id: int, size: int = 224) -> Image.Image:
    """Draw the RGB picture of `size` x `size` pixels that stands for `image_id`, always the same one."""
    # A stream of bytes from a hash and not `random`: nobody promises that its sequences stay.
    stream = iter(hashlib.shake_256(f"placeholder {image_id}".encode()).digest(3 + 8 * _SHAPES))
    picture = Image.new("RGB", (size, size), (next(stream), next(stream), next(stream)))
    draw = ImageDraw.Draw(picture)
    for _ in range(_SHAPES):
        kind, x, y, width, height, *colour = (next(stream) for _ in range(8))
        left, top = x * size // 256, y * size // 256
        box = (left, top, left + size // 8 + width * size // 512, top + size // 8 + height * size // 512)
        shape = draw.ellipse if kind % 2 else draw.rectangle
        shape(box, fill=(colour[0], colour[1], colour[2]))
    return picture
