"""Pictures and texts to ImageBind embeddings, by the built-in model or by the upstream package."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from extraction.errors import InputError
from extraction.files import locate
from extraction.imagebind import ImageBindConfig
from extraction.imagebind.config import read_config
from extraction.imagebind.weights import load_imagebind, weights_sha256
from extraction.preprocess.image import load_image, preprocess_image
from extraction.preprocess.text import Tokenizer, find_clip_vocabulary, read_merges
from extraction.settings import ENCODER_DEFAULTS, refuse_unknown
from extraction.upstream import UpstreamModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BACKENDS = ("builtin", "imagebind")
Model = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class Encoder:
    """ImageBind's vision and text towers with their preprocessing.

    The weights are read when the first picture or text is encoded; what they are is known before
    (`identity`).
    """

    def __init__(
        self,
        backend: str,
        weights: Path,
        config: ImageBindConfig,
        vocabulary: Path,
        dtype: str,
        device: torch.device,
    ) -> None:
        self.backend = backend
        self.weights = weights
        self.config = config
        self.vocabulary = vocabulary
        self.dtype = dtype
        self.device = device

    @classmethod
    def from_config(cls, mapping: Mapping[str, Any]) -> "Encoder":
        """Make an encoder from a configuration's `encoder` section; keys left out have `ENCODER_DEFAULTS`.

        `backend`: builtin or imagebind. `weights`: .pth, .safetensors or a folder of towers (`python -m
        extraction convert`). `config`: "huge", or a JSON file with ImageBindConfig's fields. `vocabulary`: a
        BPE file, or null for CLIP's. `dtype`: float32, bfloat16 or float16. `device`: auto, cpu, cuda or
        cuda:N. Raises InputError for what cannot be used.
        """
        refuse_unknown(mapping, ENCODER_DEFAULTS, "the encoder's configuration")
        values = {**ENCODER_DEFAULTS, **mapping}
        for key, known in (("backend", BACKENDS), ("dtype", tuple(DTYPES))):
            if values[key] not in known:
                raise InputError(f"encoder.{key} must be one of {', '.join(known)}, not {values[key]!r}")
        if not values["weights"]:
            raise InputError("encoder.weights names no file: give the path of ImageBind's weights")
        if values["backend"] == "imagebind" and values["dtype"] != "float32":
            raise InputError("encoder.backend imagebind computes in float32: set encoder.dtype to float32")
        weights = locate(values["weights"])
        if not weights.exists():
            raise InputError(
                f"there is no weights file {weights} (encoder.weights): correct the path, or fetch "
                "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth"
            )
        vocabulary = locate(values["vocabulary"]) if values["vocabulary"] else find_clip_vocabulary()
        config, device = read_config(values["config"]), _device(values["device"])
        return cls(values["backend"], weights, config, vocabulary, values["dtype"], device)

    @property
    def width(self) -> int:
        """C, the length of an embedding."""
        return self.config.out_embed_dim

    @property
    def image_size(self) -> int:
        """The side, in pixels, of the squares that the model sees."""
        return self.config.image_size

    def identity(self) -> dict[str, Any]:
        """What decides on the embeddings: the model's name, the sha256 of weights and vocabulary, sizes."""
        return self._identity

    @cached_property
    def _identity(self) -> dict[str, Any]:
        # Of the merges and not of the file: the same vocabulary is packed in several ways.
        merges = "\n".join(" ".join(pair) for pair in read_merges(self.vocabulary))
        return {
            "name": "imagebind",
            "weights_sha256": weights_sha256(self.weights),
            "vocabulary_sha256": hashlib.sha256(merges.encode()).hexdigest(),
            "config": self.config.to_dict(),
        }

    @cached_property
    def _model(self) -> Model:
        if self.backend == "imagebind":
            return UpstreamModel(self.weights, self.config, self.device)
        return load_imagebind(self.weights, self.config, ("vision", "text"), DTYPES[self.dtype], self.device)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(self.vocabulary)

    def encode_images(
        self, images: Sequence[str | Path | Image.Image], normalize: bool = False, batch_size: int = 16
    ) -> Tensor:
        """Encode picture files or pictures: float32 [n, C] on the CPU, of unit length as ImageBind has them.

        Raises InputError naming a file that cannot be read.
        """
        rows = [torch.empty(0, self.width)]
        for start in range(0, len(images), batch_size):
            batch = [self._pixels(image) for image in images[start : start + batch_size]]
            rows.append(self.encode_pixels(torch.stack(batch)))
        return _finished(torch.cat(rows), normalize)

    def encode_texts(self, texts: Sequence[str], normalize: bool = False, batch_size: int = 256) -> Tensor:
        """Encode texts: float32 [n, C] on the CPU, of length about 1/0.07 unless `normalize`."""
        embeddings = torch.empty(len(texts), self.width)
        for rows, encoded in self.text_batches(texts, batch_size):
            embeddings[rows] = encoded
        return _finished(embeddings, normalize)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Encode one batch of preprocessed pictures, float32 [n, 3, S, S] -> float32 [n, C] on the CPU."""
        return self._run("vision", pixels.to(DTYPES[self.dtype]))

    def text_batches(self, texts: Sequence[str], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Encode texts, short ones first: yields (their rows in `texts` int64 [b], float32 [b, C] on CPU).

        A batch is cut behind its longest text. That is exact: the model reads a text's embedding at its end
        token, and no token sees a later one.
        """
        if not texts:
            return
        ids = self._tokenizer(texts, self.config.context_length)
        lengths = ids.argmax(dim=1) + 1  # the end token has the largest id
        for rows in lengths.argsort(stable=True).split(batch_size):
            yield rows, self._run("text", ids[rows, : int(lengths[rows].max())])

    def _pixels(self, image: str | Path | Image.Image) -> Tensor:
        opened = image if isinstance(image, Image.Image) else load_image(image)
        try:
            return preprocess_image(opened, self.image_size)
        except InputError as error:
            raise InputError(str(error) if opened is image else f"{image}: {error}") from None

    @torch.inference_mode()
    def _run(self, modality: str, batch: Tensor) -> Tensor:
        return self._model({modality: batch.to(self.device)})[modality].float().cpu()


def _finished(embeddings: Tensor, normalize: bool) -> Tensor:
    return F.normalize(embeddings, dim=-1) if normalize else embeddings


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"encoder.device must be auto, cpu, cuda or cuda:N, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"encoder.device is {name}, but torch sees {torch.cuda.device_count()} GPUs: choose cpu or auto"
        )
    return device
