"""Keeps the index in memory at the state of the file, whoever changed it."""

import sqlite3

import numpy as np

from malmm.memory.index import USER_BITS, Ids, VectorIndex
from malmm.memory.sqlite_fetch import fetch_index_rows
from malmm.memory.sqlite_rows import EVERY_ROW, by_user, of_ids

KEPT_CHANGES = 65536  # an index that has missed more loads its users anew
_TRIMMED_EVERY = 4096  # a trim writes another page: not with every change


def log_changes(db: sqlite3.Connection, ids: list[int], only_counters: bool = False) -> None:
    """Note, in the transaction that changes them, that records have changed; runs of ids take one row."""
    rows: list[tuple[int, int, bool]] = []
    for id in sorted(set(ids)):
        if rows and rows[-1][1] == id - 1:
            rows[-1] = (rows[-1][0], id, only_counters)
        else:
            rows.append((id, id, only_counters))
    db.executemany("INSERT INTO changes (first, last, only_counters) VALUES (?, ?, ?)", rows)
    _, newest = _span(db)
    if newest % _TRIMMED_EVERY < len(rows):
        db.execute("DELETE FROM changes WHERE number <= ?", (newest - KEPT_CHANGES,))


class IndexFeed:
    """Loads a user's records into the index when they are first searched, and what has changed since."""

    def __init__(self, index: VectorIndex) -> None:
        self.index = index
        self._loaded: set[int] = set()  # users, by number
        self._seen = 0  # the last change that the index has

    def catch_up(self, db: sqlite3.Connection, user: int | None) -> None:
        """Bring the index to the state that the transaction sees, for one user or (None) for all."""
        oldest, newest = _span(db)
        if self._seen + 1 < oldest:  # the log no longer reaches back to what the index has
            for number in self._loaded:
                self.index.drop(number)
            self._loaded.clear()
        if self._seen < newest:
            self._replay(db)
            self._seen = newest
        for number in sorted(({user} if user is not None else _users(db)) - self._loaded):
            self.index.put(fetch_index_rows(db, self.index.width, number, EVERY_ROW))
            self._loaded.add(number)

    def _replay(self, db: sqlite3.Connection) -> None:
        """Take over the changes since `_seen`, of loaded users, as the file has them now."""
        log = db.execute("SELECT first, last, only_counters FROM changes WHERE number > ?", (self._seen,))
        ranges: dict[int, list[Ids]] = {0: [], 1: []}
        for first, last, only_counters in log:
            if first >> USER_BITS in self._loaded:
                ranges[only_counters].append(np.arange(first, last + 1))
        if ranges[0]:
            users = _users(db)
            for user, changed in by_user(np.unique(np.concatenate(ranges[0]))).items():
                if user not in users:  # nothing of the user is left
                    self.index.drop(user)
                    self._loaded.discard(user)
                    continue
                rows = fetch_index_rows(db, self.index.width, user, of_ids(changed))
                self.index.remove(np.setdiff1d(changed, rows.ids))
                self.index.put(rows)
        if ranges[1]:
            condition = of_ids(np.unique(np.concatenate(ranges[1])))
            counters = db.execute(
                f"SELECT id, accessed, access_count FROM counters WHERE {condition.sql}", condition.parameters
            ).fetchall()
            ids, accessed, counts = zip(*counters, strict=True) if counters else ((),) * 3
            self.index.set_counters(np.array(ids, np.int64), np.array(accessed), np.array(counts, np.int64))


def _users(db: sqlite3.Connection) -> set[int]:
    """Numbers of the users that have records."""
    return {number for (number,) in db.execute("SELECT number FROM users")}


def _span(db: sqlite3.Connection) -> tuple[int, int]:
    """Numbers of the oldest and the newest change in the log; (1, 0) where it is empty."""
    oldest = db.execute("SELECT min(number) FROM changes").fetchone()[0]
    newest = db.execute("SELECT max(number) FROM changes").fetchone()[0]
    return (1, 0) if oldest is None else (oldest, newest)
