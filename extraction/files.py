"""Files on disk: where a configured path lies, and writing that a kill cannot leave half done."""

import filecmp
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

PACKAGE_ROOT = Path(__file__).resolve().parents[1]
TEMPORARY_SUFFIX = ".tmp"


def locate(path: str | Path, root: Path = PACKAGE_ROOT) -> Path:
    """Return `path` as the current directory has it, else as `root` has it.

    Where neither holds it the current directory's reading is returned, so that a message names the path that
    the person would expect, and so that a file yet to be made is made there.
    """
    here = Path(path).expanduser()
    if here.is_absolute() or here.exists():
        return here
    there = root / here
    return there if there.exists() else here


def write_atomically(path: Path, write: Callable[[BinaryIO], object], keep_equal: bool = False) -> None:
    """Let `write` fill a temporary file in the same folder, then give it the name `path`.

    The data reach the disk before the name does, so `path` is either absent, the old file or the whole new
    one. With `keep_equal` an old file of the same bytes is left alone.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep_equal and path.exists() and filecmp.cmp(path, temporary, shallow=False):
            temporary.unlink()
        else:
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def json_line(row: Mapping[str, Any]) -> bytes:
    """One line of a .jsonl file; of a file's name, what is no Unicode becomes the escape that JSON has."""
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
