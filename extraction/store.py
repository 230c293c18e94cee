"""The embedding store: what stage 1 leaves on disk and stage 2 reads.

A folder per split:

    manifest.json      what made it, and every shard with its sha256; "complete": false while it is being made
    vision-00000.pt    {"ids": int64 [n] image ids, "embeddings": float16 [n, C]}
    text-00000.pt      {"ids": int64 [n] rows, "embeddings": float16 [n, C]}
    dialogs-00000.pt   {"ids": int64 [D] image ids, "vision": int64 [D] rows, "text": int64 [D, T] rows}
    failed.jsonl       only where pictures failed: {"image_id", "file", "reason"} a line

Rows count through a modality's shards. A dialog whose picture failed has vision row -1; behind the last
question of a shorter dialog the text row is -1.
"""

import bisect
import itertools
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from extraction.errors import InputError
from extraction.files import sha256_of

FORMAT = "malmm embedding store"
FORMAT_VERSION = 1
EMBEDDING_DTYPE = torch.float16
MERGE = "join the slices with `python -m extraction merge`"
REMAKE = "delete it and run the same extraction again: it is made anew"


def read_shard(path: Path) -> dict[str, Tensor]:
    """Map a shard's tensors into memory. Raises InputError for a file that is damaged or no shard."""
    try:
        content = torch.load(str(path), weights_only=True, mmap=True, map_location="cpu")
    # torch names a dozen types here, from RuntimeError (a cut zip) to UnpicklingError
    except Exception as error:
        raise InputError(f"the shard {path} is damaged or cut short: {REMAKE}") from error
    if not isinstance(content, dict) or not isinstance(content.get("ids"), Tensor):
        raise InputError(f"the shard {path} does not hold what a shard holds: {REMAKE}")
    return content


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read `folder`'s manifest, None where there is none. Raises InputError for another kind or version."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"the manifest {path} cannot be read ({error}): delete the store and run the extraction again"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path} is not the manifest of an embedding store: name another folder")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has store format {manifest.get('format_version')}, this version reads {FORMAT_VERSION}: "
            "run the extraction again into another folder"
        )
    return manifest


def read_complete_manifest(folder: Path, key: str, made_by: str) -> dict[str, Any]:
    """Read the manifest of a whole store that the command `made_by` makes, known by its manifest's `key`.

    Raises InputError where there is no store, or it is unfinished, a slice or of another kind.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(
            f"there is no embedding store in {folder}: make it with `python -m extraction {made_by}`"
        )
    if key not in manifest:
        raise InputError(
            f"the embedding store {folder} holds other things than `python -m extraction {made_by}` writes: "
            "name one that it made"
        )
    if not manifest["complete"]:
        raise InputError(
            f"the embedding store {folder} is unfinished: run the same extraction again to finish it"
        )
    if "slice" in manifest:
        raise InputError(f"the embedding store {folder} is slice {manifest['slice']} of a store: {MERGE}")
    return manifest


def shards_of(manifest: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The manifest's shards of `vision`, `text` or `dialogs`: `{"file", "rows", "bytes", "sha256"}` each."""
    section = manifest["dialogs"] if kind == "dialogs" else manifest["modalities"][kind]
    return section["shards"]


def files_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """A complete manifest's entries of all files: shards, dialogs and the table of items."""
    sections = [*manifest["modalities"].values(), manifest.get("dialogs", {})]
    return [entry for section in sections for entry in section.get("shards", [])] + [
        manifest[name] for name in ("items",) if name in manifest
    ]


def check_shard(path: Path, entry: dict[str, Any], verify: bool = False) -> None:
    """Compare a shard with its entry in the manifest: presence, size and, with `verify`, sha256.

    Raises InputError that names the shard.
    """
    if not path.is_file():
        raise InputError(f"the shard {path} is missing: run the same extraction again, it is made anew")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise InputError(f"the shard {path} is damaged ({size} bytes, {entry['bytes']} expected): {REMAKE}")
    if verify and sha256_of(path) != entry["sha256"]:
        raise InputError(f"the shard {path} is damaged (its sha256 is not the manifest's): {REMAKE}")


class _Rows:
    """One modality: rows [n, C] that lie in several shards, each mapped when it is first asked for."""

    def __init__(self, folder: Path, shards: list[dict[str, Any]]) -> None:
        self.paths = [folder / shard["file"] for shard in shards]
        self.starts = [0, *itertools.accumulate(shard["rows"] for shard in shards)]
        self.mapped: dict[int, Tensor] = {}

    def __getitem__(self, row: int) -> Tensor:
        k = bisect.bisect_right(self.starts, row) - 1
        if k not in self.mapped:
            self.mapped[k] = read_shard(self.paths[k])["embeddings"]
        return self.mapped[k][row - self.starts[k]]


class EmbeddingStore:
    """One split's embeddings, read from disk as they are asked for.

    `manifest`: what made the store. `image_ids`: the dialogs in the order of the annotations.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self._vision = _Rows(folder, shards_of(manifest, "vision"))
        self._text = _Rows(folder, shards_of(manifest, "text"))
        dialogs = read_shard(folder / shards_of(manifest, "dialogs")[0]["file"])
        self.image_ids: list[int] = dialogs["ids"].tolist()
        self._index = {image_id: i for i, image_id in enumerate(self.image_ids)}
        self._vision_rows, self._text_rows = dialogs["vision"], dialogs["text"]

    @classmethod
    def open(cls, folder: str | Path, verify: bool = False) -> "EmbeddingStore":
        """Open the complete store in `folder`; `verify` also compares every shard's sha256.

        Raises InputError where there is no store, it is unfinished, or a shard is missing or damaged.
        """
        folder = Path(folder)
        manifest = read_complete_manifest(folder, "annotations", "visdial")
        for entry in files_of(manifest):
            check_shard(folder / entry["file"], entry, verify)
        return cls(folder, manifest)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __reduce__(self) -> tuple[Callable[..., "EmbeddingStore"], tuple[Path, dict[str, Any]]]:
        # A worker process maps the files itself: pickling the tensors would copy them.
        return EmbeddingStore, (self.folder, self.manifest)

    @property
    def width(self) -> int:
        """C, the length of an embedding."""
        return self.manifest["modalities"]["vision"]["width"]

    @cached_property
    def failed_ids(self) -> list[int]:
        """The image ids whose picture could not be read: `vision` raises InputError for them."""
        return [
            image_id
            for image_id, row in zip(self.image_ids, self._vision_rows.tolist(), strict=True)
            if row < 0
        ]

    def vision(self, image_id: int) -> Tensor:
        """Return the picture's embedding, float32 [C]. Raises InputError for one unknown or unreadable."""
        row = int(self._vision_rows[self._dialog(image_id)])
        if row < 0:
            raise InputError(
                f"picture {image_id} has no embedding in {self.folder}, since it could not be read "
                "(see failed.jsonl there): repair it and run the same extraction again"
            )
        return self._vision[row].float()

    def text(self, image_id: int) -> Tensor:
        """Return the embeddings of caption and questions, float32 [T, C]. Raises InputError if unknown."""
        rows = self._text_rows[self._dialog(image_id)].tolist()
        return torch.stack([self._text[row] for row in rows if row >= 0]).float()

    def _dialog(self, image_id: int) -> int:
        try:
            return self._index[image_id]
        except KeyError:
            raise InputError(
                f"the embedding store {self.folder} knows no picture {image_id}: it was made from "
                f"{self.manifest['annotations']['file']}; extract the annotations that hold this picture"
            ) from None
