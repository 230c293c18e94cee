"""Whether everything in a SQLite store fits together, looked at from outside the code under test."""

import sqlite3
from collections import Counter
from pathlib import Path


def check_consistency(path: Path) -> None:
    """Fails where rows, words, counters, merged originals and media copies do not agree."""
    db = sqlite3.connect(path)
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        records = _ids(db, "SELECT id FROM records")
        assert _ids(db, "SELECT id FROM counters") == records
        for number, last in db.execute("SELECT number, last FROM users").fetchall():
            own = {id for id in records if id >> 32 == number}
            assert own and max(id & 0xFFFFFFFF for id in own) <= last
            merged = {id for id in _ids(db, "SELECT id FROM merged") if id >> 32 == number}
            assert _ids(db, f"SELECT id FROM content_{number}") == own | {-id for id in merged}
            assert _ids(db, f"SELECT id FROM words_{number}_docsize") == own
            _check_words(db, number)
        assert {id >> 32 for id in records} == _ids(db, "SELECT number FROM users")
        into = Counter(id for (id,) in db.execute("SELECT into_id FROM merged"))
        sizes = dict(db.execute("SELECT id, size FROM records"))
        assert {id: sizes[id] for id in into} == into  # no record of these tests came with a size
        assert {id for id, size in sizes.items() if size > 1} == into.keys()
        used = "SELECT conversation FROM records UNION SELECT conversation FROM merged"
        assert _ids(db, "SELECT number FROM conversations") == _ids(db, used)
        copies = "SELECT media_copy FROM records UNION SELECT media_copy FROM merged"
        assert _files(path.with_name(path.name + ".media")) == _ids(db, copies) - {None}
    finally:
        db.close()


def _ids(db: sqlite3.Connection, sql: str) -> set[int]:
    return {row[0] for row in db.execute(sql)}


def _files(folder: Path) -> set[str]:
    return {file.name for file in folder.rglob("*") if file.is_file()}


def _check_words(db: sqlite3.Connection, number: int) -> None:
    """The index finds every word of every record, and no record by another word."""
    db.execute(f"CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab (main, words_{number}, instance)")
    indexed = Counter(db.execute("SELECT term, doc FROM temp.vocabulary"))
    db.execute("DROP TABLE temp.vocabulary")
    texts = db.execute(f"SELECT id, text FROM content_{number} WHERE id > 0")
    assert indexed == Counter((word, id) for id, text in texts for word in text.split())
