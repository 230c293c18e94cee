"""What there is to encode in files and folders: each file is found and hashed, each text read by lines."""

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from extraction.catalogue import Catalogue
from extraction.errors import InputError
from extraction.files import sha256_of
from extraction.kinds import KIND_OF_SUFFIX, kind_of

LONGEST_LINE = 65536  # bytes; the model reads some 75 tokens of a line
Entries = Any  # what os.scandir returns; it has no public name
HASHERS = min(8, os.cpu_count() or 1)  # threads: hashing files leaves Python's lock alone


def check_paths(paths: Sequence[Path]) -> None:
    """Raise InputError for the first of `paths` that is no folder and no file of a known kind."""
    for path in paths:
        if not path.exists():
            raise InputError(f"there is no file or folder {path}: correct the path")
        if not path.is_dir() and (not path.is_file() or kind_of(path) is None):
            raise InputError(
                f"{path} is of no known kind: files must end in one of {', '.join(KIND_OF_SUFFIX)}"
            )


def scan(
    paths: Sequence[Path], kinds: Collection[str], catalogue: Catalogue, advance: Callable[[], object]
) -> int:
    """Put every item of `kinds` in `paths` into the catalogue; returns how many other files there are.

    Folders are searched with all that is in them, but for what has a name that begins with a dot. `advance`
    is called for each file. Raises InputError for a folder that cannot be read.
    """
    others = 0
    for source in _files_in(paths):
        kind = kind_of(source)
        if kind in kinds:
            catalogue.add_file(source, str(kind))
        else:
            others += 1
    for source, kind, hashed in _hashed(catalogue.files()):
        if isinstance(hashed, str):
            catalogue.add_fault(source, None, kind, hashed)
        elif hashed is not None:
            catalogue.add_item(source, None, kind, hashed)
        else:
            _scan_lines(source, catalogue)
        advance()
    return others


def _files_in(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        if path.is_dir():
            yield from _files_below(str(path))
        else:
            yield str(path)


def _files_below(root: str) -> Iterator[str]:
    """Every file below `root`, in no order. Links to folders are followed, but not into what holds them."""
    opened = [_open(root)]
    while opened:
        entry = next(opened[-1][0], None)
        if entry is None:
            opened.pop()[0].close()
        elif entry.name.startswith("."):
            continue
        elif _leads(entry, os.DirEntry.is_dir):
            entries, identity = _open(entry.path)
            if all(identity != holding for _, holding in opened):
                opened.append((entries, identity))
        elif _leads(entry, os.DirEntry.is_file) or entry.is_symlink():
            yield entry.path.removeprefix("./")


def _open(folder: str) -> tuple[Entries, tuple[int, int]]:
    try:
        status = Path(folder).stat()
        return os.scandir(folder), (status.st_dev, status.st_ino)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {error.strerror}") from error


def _leads(entry: os.DirEntry[str], test: Callable[[os.DirEntry[str]], bool]) -> bool:
    try:
        return test(entry)
    except OSError:  # a link that leads to itself
        return False


def _hashed(files: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str, bytes | str | None]]:
    """Of each file, in order: name, kind, and its sha256, or why there is none; None for a text."""
    running: deque[tuple[str, str, Future[bytes | str] | None]] = deque()

    def finished() -> tuple[str, str, bytes | str | None]:
        source, kind, future = running.popleft()
        return source, kind, None if future is None else future.result()

    with ThreadPoolExecutor(HASHERS) as pool:
        for source, kind in files:
            running.append((source, kind, None if kind == "text" else pool.submit(_digest, source)))
            if len(running) > 4 * HASHERS:
                yield finished()
        while running:
            yield finished()


def _digest(source: str) -> bytes | str:
    try:
        return bytes.fromhex(sha256_of(Path(source)))
    except OSError as error:
        return f"{source} cannot be read: {error.strerror}"


def _scan_lines(source: str, catalogue: Catalogue) -> None:
    """Every line of a text that is not empty is an item. Bytes that are no UTF-8 spoil their line alone."""
    try:
        with Path(source).open("rb") as file:
            for number in itertools.count(1):
                line = rest = file.readline(LONGEST_LINE + 1)
                if not line:
                    break
                while _is_cut(rest):
                    rest = file.readline(LONGEST_LINE + 1)
                _add_line(source, number, line, catalogue)
    except OSError as error:
        catalogue.add_fault(source, None, "text", f"{source} cannot be read: {error.strerror}")


def _is_cut(line: bytes) -> bool:
    return len(line) > LONGEST_LINE and not line.endswith(b"\n")


def _add_line(source: str, number: int, line: bytes, catalogue: Catalogue) -> None:
    if _is_cut(line):
        fault = f"line {number} of {source} is longer than {LONGEST_LINE} bytes: break it up"
        catalogue.add_fault(source, number, "text", fault)
        return
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError:
        fault = f"line {number} of {source} is no UTF-8: save the file as UTF-8"
        catalogue.add_fault(source, number, "text", fault)
        return
    if text:
        catalogue.add_item(source, number, "text", hashlib.sha256(text.encode()).digest(), text)
