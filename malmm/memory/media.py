"""Copies of pictures, sounds and films beside a store, each under the sha256 of its bytes."""

import contextlib
import hashlib
import os
import re
from pathlib import Path

from malmm.errors import InputError
from malmm.memory.record import Media

_PIECE = 1 << 20  # bytes read at once
_TEMPORARY = ".tmp"


def copy_name(media: Media) -> str:
    """`<sha256><suffix>`: what its copy is called."""
    suffix = Path(media.path).suffix.lower()
    return media.sha256 + (suffix if re.fullmatch(r"\.[a-z0-9]{1,10}", suffix) else "")


def read_media(path: Path, copied: bool) -> Media:
    """A file as media, by the sha256 of its bytes. Raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): correct the path") from error
    return Media(str(path), digest, copied)


class MediaFolder:
    """A folder of copies, `ab/<sha256><suffix>`.

    Whoever calls sees to it that one process changes it at a time: the store, by its write transaction.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, name: str) -> Path:
        """Where the copy of this name lies, or would."""
        return self.folder / name[:2] / name

    def keep(self, media: Media) -> None:
        """Copy the file, unless its bytes are here already; durable when it returns.

        Raises InputError where it cannot be read or written, or holds other bytes than it did.
        """
        if not re.fullmatch(r"[0-9a-f]{64}", media.sha256):
            raise InputError(f"{media.path}: its sha256 is to be 64 hexadecimal digits, not {media.sha256!r}")
        target = self.file(copy_name(media))
        if target.exists():
            return
        temporary = target.with_name(target.name + _TEMPORARY)
        try:
            for folder in (self.folder, target.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            if _copy(Path(media.source or media.path), temporary) != media.sha256:
                raise InputError(f"{media.path} has changed while it was remembered: show it again")
            temporary.replace(target)
            for folder in (target.parent, self.folder, self.folder.parent):
                _sync(folder)
        except OSError as error:
            raise InputError(f"{media.path} cannot be copied into the memory ({error.strerror})") from error
        finally:
            temporary.unlink(missing_ok=True)

    def discard(self, name: str) -> None:
        """Delete a copy, and what a kill left of one."""
        target = self.file(name)
        target.unlink(missing_ok=True)
        target.with_name(target.name + _TEMPORARY).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or not there
            target.parent.rmdir()
            self.folder.rmdir()


def _copy(source: Path, target: Path) -> str:
    """Copy the bytes to the disk -> their sha256."""
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("wb") as written:
        while piece := read.read(_PIECE):
            digest.update(piece)
            written.write(piece)
        written.flush()
        os.fsync(written.fileno())
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    """Bring the names in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
