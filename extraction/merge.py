"""Joining the slices of a store: the same bytes as of a store that was made in one piece."""

import heapq
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from extraction.errors import InputError
from extraction.slices import Slice
from extraction.store import check_shard, read_manifest, read_shard
from extraction.store_writer import FAILED_FILE, StoreWriter, first_difference

RESULTS = ("format", "format_version", "complete", "slice", "failed", "dialogs", "items")  # not the header
COUNTED = ("rows", "shards")  # nor these of a modality


@dataclass(frozen=True)
class Merged:
    """A store that was joined: its folder, the rows of each modality, and how many items failed."""

    folder: Path
    rows: dict[str, int]
    failed: int


@dataclass(frozen=True)
class _Part:
    folder: Path
    manifest: dict[str, Any]

    @property
    def slice(self) -> Slice:
        return Slice.parse(self.manifest["slice"], str(self.folder))

    @property
    def header(self) -> dict[str, Any]:
        """What the store was made of, without what came of it."""
        header = {key: value for key, value in self.manifest.items() if key not in RESULTS}
        modalities = {
            kind: {key: value for key, value in section.items() if key not in COUNTED}
            for kind, section in header["modalities"].items()
        }
        return {**header, "modalities": modalities}


def merge_stores(parts: Sequence[Path], out: Path) -> list[Merged]:
    """Join the slices in the folders `parts` into the store `out`; of VisDial, split by split.

    Raises InputError where a slice is missing, there twice, unfinished, damaged or of another store.
    """
    layouts = [_stores_in(part) for part in parts]
    for part, layout in zip(parts, layouts, strict=True):
        for split in layouts[0].keys() ^ layout.keys():
            has, lacks = (part, parts[0]) if split in layout else (parts[0], part)
            raise InputError(
                f"{has} has a slice of {split or 'one store'} and {lacks} has none: extract it too"
            )
    if out.resolve() in {part.resolve() for part in parts}:
        raise InputError(f"--out names the slice {out}: name another folder for the whole store")
    return [_merge([layout[split] for layout in layouts], out / split) for split in layouts[0]]


def _stores_in(part: Path) -> dict[str, Path]:
    """The store in a folder, or those of the splits in its folders, by name."""
    if (part / "manifest.json").exists():
        return {"": part}
    stores = {path.parent.name: path.parent for path in sorted(part.glob("*/manifest.json"))}
    if not stores:
        raise InputError(f"there is no embedding store in {part}: name the folders of the slices")
    return stores


def _merge(folders: Sequence[Path], out: Path) -> Merged:
    parts = sorted((_read_part(folder) for folder in folders), key=lambda part: part.slice.index)
    _refuse_what_does_not_fit(parts)
    header = parts[0].header
    with StoreWriter(out, header) as writer:
        counts = {kind: _copy_shards(parts, kind, writer) for kind in header["modalities"]}
        if "dialogs" in parts[0].manifest:
            writer.finish(_join_dialogs(parts, writer, counts["vision"]), counts, _failed_pictures(parts))
        else:
            writer.finish_items(_copied_items(parts), counts, _failed_items(parts))
    manifest = read_manifest(out) or {}
    rows = {kind: section["rows"] for kind, section in manifest["modalities"].items()}
    return Merged(out, rows, manifest["failed"])


def _read_part(folder: Path) -> _Part:
    manifest = read_manifest(folder)
    if manifest is None or "slice" not in manifest:
        raise InputError(f"{folder} is no slice of a store: name folders that --shard or torchrun made")
    if not manifest["complete"]:
        raise InputError(f"the slice {folder} is unfinished: run the same extraction again to finish it")
    return _Part(folder, manifest)


def _refuse_what_does_not_fit(parts: Sequence[_Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        difference = first_difference(first.header, part.header)
        if difference:
            old, new = difference
            raise InputError(
                f"the slices {first.folder} and {part.folder} are of different stores, made with {old} and "
                f"with {new}: name the slices of one"
            )
        if part.slice.of != first.slice.of:
            raise InputError(
                f"{first.folder} is slice {first.slice} and {part.folder} is slice {part.slice}: name slices "
                "of one number"
            )
        if part.manifest.get("items") != first.manifest.get("items"):
            raise InputError(
                f"the slices {first.folder} and {part.folder} were made of different files: extract the "
                "older one again"
            )
    for one, other in itertools.pairwise(parts):
        if one.slice == other.slice:
            raise InputError(f"{one.folder} and {other.folder} are both slice {one.slice}: name it once")
    present = {part.slice.index for part in parts}
    missing = [str(Slice(i, first.slice.of)) for i in range(first.slice.of) if i not in present]
    if missing:
        raise InputError(
            f"slice {missing[0]} is missing ({len(missing)} of {first.slice.of}): name its folder too"
        )


def _copy_shards(parts: Sequence[_Part], kind: str, writer: StoreWriter) -> int:
    count = 0
    for part in parts:
        for entry in part.manifest["modalities"][kind]["shards"]:
            writer.copy(part.folder / entry["file"], entry)
            count += 1
    return count


def _join_dialogs(parts: Sequence[_Part], writer: StoreWriter, shards: int) -> dict[str, Tensor]:
    """The dialogs of the first slice, with rows that count through all slices' pictures."""
    (entry,) = parts[0].manifest["dialogs"]["shards"]
    check_shard(parts[0].folder / entry["file"], entry, verify=True)
    dialogs = read_shard(parts[0].folder / entry["file"])
    ids = itertools.chain.from_iterable(writer.read_ids("vision", k) or () for k in range(shards))
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    rows = [row_of.get(image_id, -1) for image_id in dialogs["ids"].tolist()]
    return {"ids": dialogs["ids"], "vision": torch.tensor(rows), "text": dialogs["text"]}


def _failed_pictures(parts: Iterable[_Part]) -> list[dict[str, Any]]:
    rows = itertools.chain.from_iterable(_read_failed(part) for part in parts)
    return sorted(rows, key=lambda row: row["image_id"])


def _failed_items(parts: Iterable[_Part]) -> Iterator[dict[str, Any]]:
    """The failed items of all slices in the order of the items, those that each slice lists once."""

    def place(row: dict[str, Any]) -> tuple[bytes, int]:
        return os.fsencode(row["source"]), row["line"] or 0

    rows = heapq.merge(*map(_read_failed, parts), key=place)
    return (next(same) for _, same in itertools.groupby(rows, key=place))


def _read_failed(part: _Part) -> Iterator[dict[str, Any]]:
    path = part.folder / FAILED_FILE
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _copied_items(parts: Sequence[_Part]) -> Any:
    entry = parts[0].manifest["items"]
    path = parts[0].folder / entry["file"]
    check_shard(path, entry, verify=True)

    def write(file: BinaryIO) -> int:
        with path.open("rb") as items:
            shutil.copyfileobj(items, file)
        return entry["rows"]

    return write
