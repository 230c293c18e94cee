"""What a user said and was shown, in tables of his own: content_<number> and words_<number>.

content_<number> holds texts, vectors and where media lay, at a record's id, and at minus its id what it was
before it was merged. words_<number> is FTS5's index of the records' texts and holds no copy of them: what one
user wrote neither weighs nor slows another's search.

SQLite overwrites with zeros what is deleted, but not what it leaves behind where it moved a row to another
page. Only a table that is emptied is overwritten altogether, so that is what `erase` does.
"""

import re
import sqlite3
from collections.abc import Iterable

from malmm.memory.record import Filters
from malmm.memory.sqlite_rows import passing

# What FTS5's tokenizer takes for a word: letters, digits and the marks that combine with them. `_` is none.
_WORD = re.compile(r"(?:[^\W_]|[\u0300-\u036f])+")


def make_tables(db: sqlite3.Connection, user: int) -> None:
    """Make the tables of a user, given by number."""
    db.execute(
        f"CREATE TABLE content_{user} "
        "(id INTEGER PRIMARY KEY, text TEXT NOT NULL, media_path TEXT, embedding BLOB NOT NULL)"
    )  # embedding: float16, little-endian
    db.execute(
        f"CREATE VIRTUAL TABLE words_{user} USING fts5 "
        "(text, content = '', tokenize = 'unicode61 remove_diacritics 2')"
    )


def drop_tables(db: sqlite3.Connection, user: int) -> None:
    """Take the tables of a user away."""
    db.execute(f"DROP TABLE content_{user}")
    db.execute(f"DROP TABLE words_{user}")


def add_content(
    db: sqlite3.Connection, user: int, rows: Iterable[tuple[int, str, str | None, bytes]]
) -> None:
    """Enter records: (id, text, path of the media, vector)."""
    rows = list(rows)
    db.executemany(f"INSERT INTO content_{user} VALUES (?, ?, ?, ?)", rows)
    add_words(db, user, [(id, text) for id, text, _, _ in rows])


def add_words(db: sqlite3.Connection, user: int, rows: Iterable[tuple[int, str]]) -> None:
    """Enter the words of records: (id, text)."""
    db.executemany(f"INSERT INTO words_{user} (rowid, text) VALUES (?, ?)", rows)


def remove_words(db: sqlite3.Connection, user: int, ids: Iterable[int]) -> None:
    """Take the words of records out, while their text is still there: the index has to be told it."""
    db.executemany(
        f"INSERT INTO words_{user} (words_{user}, rowid, text) "
        f"SELECT 'delete', id, text FROM content_{user} WHERE id = ?",
        [(id,) for id in ids],
    )


def erase(db: sqlite3.Connection, user: int) -> None:
    """Leave nothing of what was deleted or replaced: empty the tables and fill them with what is there."""
    db.execute(f"CREATE TABLE temp.kept AS SELECT * FROM content_{user}")
    db.execute(f"DELETE FROM content_{user}")
    db.execute(f"INSERT INTO content_{user} SELECT * FROM temp.kept ORDER BY id")
    db.execute("DROP TABLE temp.kept")
    db.execute(f"INSERT INTO words_{user} (words_{user}) VALUES ('delete-all')")
    db.execute(f"INSERT INTO words_{user} (rowid, text) SELECT id, text FROM content_{user} WHERE id > 0")


def search_words(
    db: sqlite3.Connection, user: int, text: str, k: int, filters: Filters
) -> list[tuple[int, float]]:
    """(id, BM25) of the k records that share most with the text, best first, equal ones by id."""
    words = dict.fromkeys(_WORD.findall(text))
    if not words:
        return []
    condition = passing(filters)
    question = " OR ".join(f'"{word}"' for word in words)  # quoted: nothing in a text is FTS5's syntax
    return db.execute(
        f"SELECT words_{user}.rowid, -bm25(words_{user}) AS score FROM words_{user} "
        f"JOIN records ON id = words_{user}.rowid WHERE words_{user} MATCH ? AND {condition.sql} "
        "ORDER BY score DESC, 1 LIMIT ?",
        (question, *condition.parameters, k),
    ).fetchall()
