"""Reading an export of memories (exchange.py), which may come from anyone: nothing in it is trusted."""

import base64
import io
import json
import os
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np

from malmm.chat.exchange import FORMAT, LINES, MEDIA, MEDIA_NAME, VERSION, Line, copy_bytes
from malmm.errors import InputError
from malmm.memory.checks import ROLES
from malmm.memory.record import Draft, Media, Modality, Vector
from malmm.memory.store import MemoryStore
from malmm.schema import Section, check

_DAMAGED = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)  # RuntimeError: it is encrypted


def import_memories(store: MemoryStore, encoder: Mapping[str, Any], user: str, path: Path) -> int:
    """Add all memories of an export to a user's, in one transaction -> how many.

    The user may be another than the one who exported. Raises InputError naming the line for a file that is
    damaged, and where it is of another encoder or its media are not those that it names; then nothing has
    been imported.
    """
    if not path.exists():
        raise InputError(f"there is no {path}: name a folder or .zip that /export wrote")
    with tempfile.TemporaryDirectory() as temporary, _open_export(path) as export:
        drafts = list(_read_drafts(export, store.width, encoder, user, Path(temporary)))
        store.add(drafts)
    return len(drafts)


class _Export:
    """The files of an export, by name; a name never leads out of it."""

    def __init__(self, path: Path, archive: zipfile.ZipFile | None) -> None:
        self.path = path
        self._archive = archive

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file of it. Raises KeyError or OSError where there is none."""
        if self._archive is not None:
            with self._archive.open(name) as file:
                yield file
            return
        # A foreign folder may hold links to files that are no part of it.
        descriptor = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileNotFoundError(name)
            yield file


@contextmanager
def _open_export(path: Path) -> Iterator[_Export]:
    if path.is_dir():
        if (path / MEDIA).is_symlink():
            raise InputError(f"{path} is no export: its {MEDIA} leads out of it")
        yield _Export(path, None)
        return
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise InputError(f"{path} is no .zip that /export wrote, or it is cut short") from error
    with archive:
        yield _Export(path, archive)


def _read_drafts(
    export: _Export, width: int, encoder: Mapping[str, Any], user: str, folder: Path
) -> Iterator[Draft]:
    lines = _lines(export)
    memories = _check_header(export.path, next(lines, ""), width, encoder)
    number = 1
    for number, line in enumerate(lines, 2):
        yield _draft(export, number, line, width, user, folder)
    if number - 1 != memories:
        raise InputError(
            f"{export.path}, {LINES} ends after line {number}, though line 1 says that {memories} memories "
            "follow: export again"
        )


def _lines(export: _Export) -> Iterator[str]:
    """The lines of the export's file of memories."""
    number = 0
    try:
        with export.open(LINES) as file:
            for line in io.TextIOWrapper(file, encoding="utf-8", newline="\n"):
                number += 1
                yield line
    except (KeyError, FileNotFoundError) as error:
        raise InputError(f"{export.path} holds no {LINES}: name what /export wrote") from error
    except (UnicodeDecodeError, *_DAMAGED) as error:
        raise InputError(f"{export.path}, {LINES}, line {number + 1}: it is damaged: export again") from error


def _check_header(path: Path, line: str, width: int, encoder: Mapping[str, Any]) -> int:
    """How many memories the file says that it has."""
    header = _json(path, 1, line)
    if header.get("format") != FORMAT:
        raise InputError(f"{path}, {LINES}, line 1: this is no export of memories: name what /export wrote")
    if header.get("version") != VERSION:
        raise InputError(
            f"{path}, {LINES}, line 1: its version is {header.get('version')}, this program reads {VERSION}"
        )
    if header.get("width") != width or header.get("encoder") != json.loads(json.dumps(dict(encoder))):
        raise InputError(
            f"{path}, {LINES}, line 1: its embeddings are of another encoder: import it with the encoder "
            "that it was exported with"
        )
    memories = header.get("memories")
    if not isinstance(memories, int):
        raise InputError(f"{path}, {LINES}, line 1: it does not say how many memories follow")
    return memories


def _json(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, {LINES}, line {number}: it is no JSON: export again") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}, {LINES}, line {number}: it holds no memory: export again")
    return values


def _draft(export: _Export, number: int, line: str, width: int, user: str, folder: Path) -> Draft:
    where = f"{export.path}, {LINES}, line {number}"
    values = Line(**check(_json(export.path, number, line), Section.of(Line), where, complete=True))
    if values.modality not in get_args(Modality) or values.role not in ROLES:
        raise InputError(f"{where}: {values.modality!r} from {values.role!r} is no memory")
    if not (
        np.isfinite([values.created, values.accessed]).all()
        and 0 <= values.saliency <= 1
        and 0 <= values.access_count < 2**31
        and 0 < values.size < 2**31
        and -(2**31) <= (values.turn or 0) < 2**31
    ):
        raise InputError(f"{where}: a time, a count or the saliency is outside its range")
    own = {name: getattr(values, name) for name in Line.__dataclass_fields__}
    own["embedding"] = _vector(values.embedding, width, where)
    own["media"] = None if values.media is None else _media(export, values, where, folder)
    return Draft(user=user, **own)


def _vector(text: str, width: int, where: str) -> Vector:
    try:
        vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    except ValueError as error:
        raise InputError(f"{where}: its embedding is no base64 of float32 numbers") from error
    if vector.shape != (width,) or not np.isfinite(vector).all() or abs(np.linalg.norm(vector) - 1) > 0.01:
        raise InputError(f"{where}: its embedding is not {width} numbers of unit length")
    return vector


@dataclass(frozen=True)
class _MediaLine:
    path: str
    sha256: str
    copied: bool
    file: str | None


def _media(export: _Export, values: Line, where: str, folder: Path) -> Media:
    """The media of a memory; what the export has of them lies in `folder` afterwards, compared."""
    media = _MediaLine(**check(values.media or {}, Section.of(_MediaLine), f"{where}, media", complete=True))
    if not re.fullmatch("[0-9a-f]{64}", media.sha256):
        raise InputError(f"{where}: {media.sha256!r} is no sha256")
    if media.file is None:  # nothing but the words are left of it
        return Media(media.path, media.sha256)
    if not MEDIA_NAME.fullmatch(media.file):
        raise InputError(f"{where}: {media.file!r} is no name of a file in {MEDIA}/")
    target = folder / media.sha256
    try:
        if not target.exists():
            with export.open(media.file) as read, target.open("wb") as written:
                digest = copy_bytes(read, written)
            if digest != media.sha256:
                raise InputError(f"{where}: {media.file} holds other bytes than were exported")
    except (KeyError, *_DAMAGED) as error:
        raise InputError(f"{where}: {media.file} is missing from the export, or damaged") from error
    return Media(media.path, media.sha256, media.copied, str(target))
