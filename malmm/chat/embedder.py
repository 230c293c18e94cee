"""The encoder as the long-term memory asks it: one thing in, one vector of unit length out."""

from pathlib import Path

import numpy as np
from torch import Tensor

from extraction.encoder import Encoder
from malmm.chat.session import Picture
from malmm.memory.record import Vector


class Embedder:
    """ImageBind for the memory. It keeps nothing: who has an embedding already hands it on."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def embed_text(self, text: str) -> Vector:
        """A text -> float32 [C]; the encoder reads its first `context_length` tokens."""
        return _vector(self.encoder.encode_texts([text]))

    def embed_image(self, picture: Picture) -> Vector:
        """A picture -> float32 [C]. Raises InputError, as the next two do, naming a file that is none."""
        return _vector(self.encoder.encode_images([picture]))

    def embed_audio(self, path: str | Path) -> Vector:
        """A sound -> float32 [C]. Raises InputError also where the weights lack the audio tower."""
        return _vector(self.encoder.encode_audio([path]))

    def embed_video(self, path: str | Path) -> Vector:
        """A film -> float32 [C]."""
        return _vector(self.encoder.encode_videos([path]))


def _vector(rows: Tensor) -> Vector:
    """[1, C] -> [C] of unit length."""
    row = rows[0].numpy()
    return (row / np.linalg.norm(row)).astype(np.float32)
