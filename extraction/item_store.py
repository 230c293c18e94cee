"""The store of `python -m extraction files`, and the items in it that are nearest to a query.

A folder:

    manifest.json      what made it, and every file with its sha256; "complete": false while it is being made
    vision-00000.pt    {"ids": uint8 [n, 32] sha256 of the contents, "embeddings": float16 [n, C]}: pictures;
                       likewise video, audio and text
    items.jsonl        {"source", "line", "modality", "sha256"} a line, in order of source and line; of a text
                       also "text". Items of equal content have equal sha256: it leads to the embedding
    failed.jsonl       only where items failed: {"source", "line", "modality", "reason"} a line
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from extraction.kinds import KINDS
from extraction.store import check_shard, files_of, read_complete_manifest, read_shard, shards_of

CHUNK = 8192  # rows whose similarities are computed at once
NAMED_ITEMS = 3
# Quotes within a JSON string are escaped, so that nothing in a name or a text looks like this.
SHA256 = re.compile(rb'"sha256": "([0-9a-f]{64})"')


@dataclass
class Hit:
    """A content near a query: the cosine, kind and sha256, how many items have it, and the first of them."""

    similarity: float
    kind: str
    sha256: str
    count: int = 0
    items: list[dict[str, Any]] = field(default_factory=list)


class ItemStore:
    """Embeddings of files and of lines of text, read from disk as they are asked for.

    `manifest`: what made the store.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: str | Path, verify: bool = False) -> "ItemStore":
        """Open the complete store in `folder`; `verify` also compares every file's sha256.

        Raises InputError where there is no such store, it is unfinished, or a file is missing or damaged.
        """
        folder = Path(folder)
        manifest = read_complete_manifest(folder, "sources", "files")
        for entry in files_of(manifest):
            check_shard(folder / entry["file"], entry, verify)
        return cls(folder, manifest)

    def __len__(self) -> int:
        """The number of items, with those that failed."""
        return self.manifest["items"]["rows"]

    @property
    def width(self) -> int:
        """C, the length of an embedding."""
        return self.manifest["modalities"]["vision"]["width"]

    def rows(self, kind: str) -> int:
        """How many distinct contents of `kind` have an embedding."""
        return self.manifest["modalities"][kind]["rows"]

    def items(self) -> Iterator[dict[str, Any]]:
        """The rows of items.jsonl."""
        with (self.folder / self.manifest["items"]["file"]).open("rb") as lines:
            yield from map(json.loads, lines)

    def chunks(self, kind: str) -> Iterator[tuple[Tensor, Tensor]]:
        """All of one kind, some rows at a time: sha256 uint8 [n, 32] and float32 [n, C]."""
        for entry in shards_of(self.manifest, kind):
            shard = read_shard(self.folder / entry["file"])
            for ids, rows in zip(shard["ids"].split(CHUNK), shard["embeddings"].split(CHUNK), strict=True):
                yield ids, rows.float()

    def nearest(self, query: Tensor, top: int, kinds: Collection[str] = KINDS) -> list[Hit]:
        """The `top` contents of `kinds` with the largest cosine to `query`, float [C], best first.

        Every row is compared; of equals the one that comes first in the store is first.
        """
        query = torch.nn.functional.normalize(query.float(), dim=0)
        best: list[Hit] = []
        for kind in (kind for kind in KINDS if kind in kinds):
            for ids, rows in self.chunks(kind):
                cosines = rows @ query / rows.norm(dim=1).clamp(min=1e-12)
                order = cosines.argsort(descending=True, stable=True)[:top].tolist()
                best += [Hit(cosines[i].item(), kind, ids[i].numpy().tobytes().hex()) for i in order]
                best = sorted(best, key=lambda hit: -hit.similarity)[:top]
        self._add_items(best)
        return best

    def _add_items(self, hits: Sequence[Hit]) -> None:
        wanted = {(hit.kind, hit.sha256): hit for hit in hits}
        digests = {hit.sha256.encode() for hit in hits}
        with (self.folder / self.manifest["items"]["file"]).open("rb") as lines:
            for line in lines:
                digest = SHA256.search(line)
                if digest is None or digest[1] not in digests:
                    continue
                item = json.loads(line)
                hit = wanted.get((item["modality"], item["sha256"]))
                if hit is not None:
                    hit.count += 1
                    hit.items += [item] if hit.count <= NAMED_ITEMS else []
