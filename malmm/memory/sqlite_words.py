"""Words of the records, for search by BM25: an FTS5 table for each user, which holds no copy of the text.

Such a table has to be told what it forgets. Words taken back stay in it, marked, until its parts are joined.
"""

import re
import sqlite3
from collections.abc import Iterable

from malmm.memory.record import Filters
from malmm.memory.sqlite_rows import passing

# What FTS5's tokenizer takes for a word: letters, digits and the marks that combine with them. `_` is none.
_WORD = re.compile(r"(?:[^\W_]|[\u0300-\u036f])+")


def make_words(db: sqlite3.Connection, user: int) -> None:
    """Make the table of a user, given by number."""
    db.execute(
        f"CREATE VIRTUAL TABLE words_{user} USING fts5 "
        "(text, content = '', tokenize = 'unicode61 remove_diacritics 2')"
    )


def drop_words(db: sqlite3.Connection, user: int) -> None:
    """Take the table of a user away."""
    db.execute(f"DROP TABLE words_{user}")


def add_words(db: sqlite3.Connection, user: int, rows: Iterable[tuple[int, str]]) -> None:
    """Enter the texts of records: (id, text)."""
    db.executemany(f"INSERT INTO words_{user} (rowid, text) VALUES (?, ?)", rows)


def remove_words(db: sqlite3.Connection, user: int, rows: Iterable[tuple[int, str]]) -> None:
    """Take texts back: (id, text) just as they were entered."""
    db.executemany(f"INSERT INTO words_{user} (words_{user}, rowid, text) VALUES ('delete', ?, ?)", rows)


def erase_words(db: sqlite3.Connection, user: int) -> None:
    """Leave nothing of texts that were taken back. FTS5's own secure-delete came with SQLite 3.42."""
    db.execute(f"INSERT INTO words_{user} (words_{user}) VALUES ('optimize')")


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
