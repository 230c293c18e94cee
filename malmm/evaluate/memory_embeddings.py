"""Embeddings of an evaluation's texts and pictures, made in batches before it begins."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL.Image import Image
from rich.progress import Progress
from torch import Tensor

from extraction.encoder import Encoder
from malmm.memory.record import Vector

_BATCH = 64


class Embeddings:
    """What a recall embeds with: looked up where it was made ahead, else encoded. Each of unit length."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._texts: dict[str, Vector] = {}
        self._pictures: dict[str, Vector] = {}

    def prepare(self, texts: Iterable[str], pictures: Iterable[Path], bar: Progress) -> None:
        """Encode these, each once."""
        new_texts = list(dict.fromkeys(texts))
        new_pictures = list(dict.fromkeys(map(str, pictures)))
        task = bar.add_task("encoding", total=len(new_texts) + len(new_pictures))
        for part in _parts(new_texts):
            self._texts.update(zip(part, _rows(self.encoder.encode_texts(part, True)), strict=True))
            bar.advance(task, len(part))
        for part in _parts(new_pictures):
            self._pictures.update(zip(part, _rows(self.encoder.encode_images(part, True)), strict=True))
            bar.advance(task, len(part))

    def embed_text(self, text: str) -> Vector:
        """A text -> float32 [C]."""
        known = self._texts.get(text)
        return _rows(self.encoder.encode_texts([text], True))[0] if known is None else known

    def embed_image(self, picture: str | Path | Image) -> Vector:
        """A picture -> float32 [C]. Raises InputError naming a file that cannot be read, as the others do."""
        known = self._pictures.get(str(picture)) if isinstance(picture, str | Path) else None
        return _rows(self.encoder.encode_images([picture], True))[0] if known is None else known

    def embed_audio(self, path: str | Path) -> Vector:
        """A sound -> float32 [C]."""
        return _rows(self.encoder.encode_audio([path], True))[0]

    def embed_video(self, path: str | Path) -> Vector:
        """A film -> float32 [C]."""
        return _rows(self.encoder.encode_videos([path], True))[0]


def _parts(items: Sequence[str]) -> list[Sequence[str]]:
    return [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]


def _rows(embeddings: Tensor) -> list[Vector]:
    return list(embeddings.numpy().astype(np.float32))
