"""All memories of a user in files that any program reads, and back: JSON lines, and the media beside them.

    memories.jsonl    a line that says what this is, then a line a memory
    media/            pictures and sounds, each under the sha256 of its bytes

in a folder, or in a .zip. What was merged into a memory when a budget was reached is not exported.
"""

import base64
import hashlib
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from extraction.files import json_line, sync_folder
from malmm.chat.turn_records import EVERY
from malmm.errors import InputError
from malmm.memory.record import Record
from malmm.memory.store import MemoryStore

FORMAT, VERSION = "malmm memories", 1
LINES, MEDIA = "memories.jsonl", "media"
MEDIA_NAME = re.compile(r"media/[0-9a-f]{64}(\.[a-z0-9]{1,10})?")
_PIECE = 1 << 20  # bytes read at once


@dataclass(frozen=True)
class Line:
    """A memory in the file; the names are those of `Record`."""

    text: str
    embedding: str
    """float32, little-endian, in base64."""
    modality: str
    role: str
    conversation: str
    turn: int | None
    media: dict[str, Any] | None
    """path, sha256, copied; file: its name in the export, null where its bytes are not in it."""
    created: float
    accessed: float
    access_count: int
    saliency: float
    pinned: bool
    size: int


def export_memories(store: MemoryStore, encoder: Mapping[str, Any], user: str, path: Path) -> int:
    """Write all memories of a user to a folder, or to a file that ends in .zip -> how many there are.

    encoder: `Encoder.identity()`. `path` appears when it is whole, readable by its owner only. Raises
    InputError where there is something at `path` already, or it cannot be written.
    """
    if path.exists():
        raise InputError(f"there is a {path} already: name another place for the export")
    records = store.records(user, limit=EVERY, newest_first=False)
    header = {
        "format": FORMAT, "version": VERSION, "user": user, "memories": len(records), "width": store.width,
        "encoder": dict(encoder),
    }  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
            whole = Path(temporary, "export")
            _write_folder(store, header, records, whole)
            if path.suffix == ".zip":
                whole = _zip(whole, Path(temporary, "export.zip"))
            whole.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"the export cannot be written to {path} ({error.strerror}): name another place"
        ) from error
    return len(records)


def _write_folder(
    store: MemoryStore, header: Mapping[str, Any], records: Sequence[Record], folder: Path
) -> None:
    folder.mkdir(mode=0o700)
    (folder / MEDIA).mkdir(mode=0o700)
    with (folder / LINES).open("wb") as lines:
        lines.write(json_line(header))
        for record in records:
            lines.write(json_line(_line(record, _write_media(store, record, folder))))
        lines.flush()
        os.fsync(lines.fileno())


def _line(record: Record, file: str | None) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in Line.__dataclass_fields__}
    media = record.media and {
        "path": record.media.path, "sha256": record.media.sha256, "copied": record.media.copied, "file": file,
    }  # fmt: skip
    embedding = base64.b64encode(record.embedding.astype("<f4").tobytes()).decode()
    return asdict(Line(**{**values, "media": media, "embedding": embedding}))


def _write_media(store: MemoryStore, record: Record, folder: Path) -> str | None:
    """Copy what a record is about into the export -> its name there; None where the bytes are gone."""
    media = record.media
    if media is None or record.modality == "text" or (source := store.media_file(media)) is None:
        return None
    suffix = Path(media.path).suffix.lower()
    name = f"{MEDIA}/{media.sha256}{suffix}"
    if not MEDIA_NAME.fullmatch(name):
        name = f"{MEDIA}/{media.sha256}"
    target = folder / name
    if not target.exists():
        with source.open("rb") as read, target.open("xb") as written:
            digest = copy_bytes(read, written)
        if digest != media.sha256:  # not the file any more that it was
            target.unlink()
            return None
    return name


def copy_bytes(read: IO[bytes], written: IO[bytes]) -> str:
    """Copy the bytes -> their sha256."""
    digest = hashlib.sha256()
    while piece := read.read(_PIECE):
        digest.update(piece)
        written.write(piece)
    return digest.hexdigest()


def _zip(folder: Path, target: Path) -> Path:
    with target.open("xb") as file:
        target.chmod(0o600)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for member in (folder / LINES, *sorted((folder / MEDIA).iterdir())):
                archive.write(member, member.relative_to(folder))
        file.flush()
        os.fsync(file.fileno())
    return target
