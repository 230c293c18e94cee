"""One connection to a SQLite file: transactions that are durable when they end, and errors in a sentence."""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from malmm.errors import InputError

BUSY_SECONDS = 30.0  # how long to wait while another process writes
PAGE_BYTES = 8192  # three float16 vectors of width 1024 a page

_SENTENCES = {
    sqlite3.SQLITE_NOTADB: "is no SQLite database: name another file",
    sqlite3.SQLITE_CORRUPT: "is damaged or cut short: restore it from a backup, or name another file",
    sqlite3.SQLITE_FULL: "cannot grow, the disk is full: free some space and try again",
    sqlite3.SQLITE_READONLY: "cannot be written: change its permissions, or name another file",
    sqlite3.SQLITE_PERM: "cannot be written: change its permissions, or name another file",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: check its folder's permissions, or name another file",
    sqlite3.SQLITE_IOERR: "cannot be read or written, the disk reports an error: check the disk",
    sqlite3.SQLITE_BUSY: "is being written by another process: try again when that has ended",
}


class SQLiteFile:
    """The connection, shared by the threads of this process under one lock."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises InputError where that cannot be."""
        self.path = path
        self.lock = threading.RLock()
        if path.is_dir():
            raise InputError(f"the memory {path} is a folder: name a file")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # What one remembers is one's own. SQLite gives its files beside this one the same permissions.
            # Only a new file: closing one that is in use would lose the locks that this process has on it.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            raise InputError(
                f"the memory {path} cannot be written ({error.strerror}): name another file"
            ) from error
        with self._in_a_sentence():
            self._db = sqlite3.connect(
                path, BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=512
            )

    def configure(self) -> None:
        """Set what every connection sets. Raises InputError where the file system does not bear it."""
        with self.lock, self._in_a_sentence():
            self._db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            (mode,) = self._db.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise InputError(
                    f"the memory {self.path} lies where SQLite cannot write ahead: name another file"
                )
            for setting in (
                "synchronous = FULL",
                "fullfsync = ON",
                "secure_delete = ON",
                "foreign_keys = ON",
                "temp_store = MEMORY",  # what is private lies in the file, or nowhere on the disk
            ):
                self._db.execute(f"PRAGMA {setting}")

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The one transaction that writes; durable when the block ends, undone where that raises."""
        with self._transaction("BEGIN IMMEDIATE") as db:
            yield db

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees one state of the file, whatever others write meanwhile."""
        with self._transaction("BEGIN") as db:
            yield db

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self.lock, self._in_a_sentence():
            self._db.execute(begin)
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                raise

    def erase(self) -> None:
        """Write the log of transactions into the file and cut it to nothing, old pages with it."""
        deadline = time.monotonic() + BUSY_SECONDS
        with self.lock, self._in_a_sentence():
            # SQLite waits for those who read, but not for another process that is doing the same.
            while self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"what was deleted is gone from the memory {self.path} but not yet from its log, "
                        "which another process reads: end that process"
                    )
                time.sleep(0.005)

    def close(self) -> None:
        """Close the connection; the last one in any process takes the write-ahead log with it."""
        with self.lock:
            self._db.close()

    @contextlib.contextmanager
    def _in_a_sentence(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without its extension
            if code not in _SENTENCES:
                raise
            raise InputError(f"the memory {self.path} {_SENTENCES[code]}") from error
