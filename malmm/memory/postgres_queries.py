"""What is asked of PostgreSQL: which records a user may see, the combined score, the words' score."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from pgvector import HalfVector
from psycopg import Cursor

from malmm.memory.index import USER_BITS
from malmm.memory.record import Filters, Match, Media, Query, Record, Terms, Vector
from malmm.memory.store import ALL

TABLES = "memory_records r JOIN memory_counters c USING (id)"
_NAMED = f"{TABLES} JOIN memory_users u ON u.number = r.id >> {USER_BITS}"
_MERGED = f"memory_merged r JOIN memory_users u ON u.number = r.id >> {USER_BITS}"
_COLUMNS = """r.id, u.name, r.text, r.embedding, r.modality, r.role, r.conversation, r.turn, r.media_path,
    r.media_sha256, r.media_copy IS NOT NULL, r.created, {counters}.accessed, {counters}.access_count,
    r.saliency, r.pinned, r.size"""
BOTH = ("r", "c")  # aliases of the tables in `TABLES`
RECORDS = f"SELECT {_COLUMNS.format(counters='c')} FROM {_NAMED} WHERE {{where}} "
MERGED = f"SELECT {_COLUMNS.format(counters='r')} FROM {_MERGED} WHERE {{where}} "
# The page is chosen before vectors are read, by the index on user, time and id.
LISTED = f"""
WITH page AS (
    SELECT r.id FROM memory_records r WHERE {{where}} AND r.id >> {USER_BITS} = %(first)s >> {USER_BITS}
    ORDER BY r.created {{order}}, r.id {{order}} LIMIT %(limit)s OFFSET %(offset)s
)
{RECORDS.format(where="r.id IN (SELECT id FROM page)")} ORDER BY r.created {{order}}, r.id {{order}}
"""

# The query comes as its half-precision value and 1024 times what that leaves, or its rounding would be in
# every score. A power too small for a float is an error: at most 1000 half-lives. `most`: n_max by user.
_SCORED = f"""
WITH seen AS MATERIALIZED (
    SELECT r.id, c.access_count,
        least(greatest(-(r.embedding <#> %(rough)s) - (r.embedding <#> %(rest)s) / 1024, 0), 1) AS relevance,
        power(2, -least(greatest(%(now)s - {{born}}, 0) / %(half_life)s, 1000)) AS recency,
        CASE WHEN r.pinned THEN 1 ELSE r.saliency END AS saliency
    FROM {TABLES} WHERE {{where}}
),
most AS ({{most}}),
terms AS (
    SELECT id, relevance, recency, ln(1 + access_count) / ln(1 + greatest(highest, 1)) AS frequency, saliency
    FROM seen JOIN most ON number = id >> {USER_BITS}
),
best AS (
    SELECT *,
        %(w_rel)s * relevance + %(w_rec)s * recency + %(w_freq)s * frequency + %(w_sal)s * saliency AS score
    FROM terms ORDER BY score DESC, id LIMIT %(k)s
)
SELECT b.score, b.relevance, b.recency, b.frequency, b.saliency, {_COLUMNS.format(counters="c")}
FROM best b JOIN {_NAMED.replace("USING (id)", "ON c.id = r.id")} ON r.id = b.id ORDER BY score DESC, b.id
"""
_MOST_OF_SEEN = f"SELECT id >> {USER_BITS} AS number, max(access_count) AS highest FROM seen GROUP BY 1"
_MOST_OF_ALL = f"""SELECT r.id >> {USER_BITS} AS number, max(c.access_count) AS highest
    FROM {TABLES} WHERE {{where}} GROUP BY 1"""

# BM25 (Robertson and Zaragoza 2009, section 3), k1 = 1.2 and b = 0.75 as in SQLite's FTS5, over what may be
# seen. A record is as long as it has different words.
_RANKED = """
WITH documents AS (
    SELECT count(*) AS number, avg(length(r.words))::float8 AS length
    FROM memory_records r WHERE {where}
),
hits AS (
    SELECT r.id, length(r.words) AS length, w.lexeme, cardinality(w.positions) AS times
    FROM memory_records r CROSS JOIN unnest(r.words) w
    WHERE {where} AND r.words @@ %(any_word)s::tsquery AND w.lexeme = ANY(%(words)s)
),
rare AS (
    SELECT lexeme, ln(1 + (number - count(*) + 0.5::float8) / (count(*) + 0.5)) AS weight
    FROM hits CROSS JOIN documents GROUP BY lexeme, number
)
SELECT id, sum(weight * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * h.length / d.length))) AS score
FROM hits h JOIN rare USING (lexeme) CROSS JOIN documents d GROUP BY id ORDER BY score DESC, id LIMIT %(k)s
"""

_CONDITIONS = {
    "conversation": "r.conversation = %(conversation)s",
    "exclude_conversation": "r.conversation <> %(exclude_conversation)s",
    "modality": "r.modality = %(modality)s",
    "role": "r.role = %(role)s",
    "after": "r.created >= %(after)s",
    "before": "r.created < %(before)s",
    "pinned": "r.pinned = %(pinned)s",
}


def visible(
    cursor: "Cursor[Any]",
    user: str | None,
    filters: Filters = ALL,
    now: float | None = None,
    tables: Sequence[str] = ("r",),
) -> tuple[str, dict[str, Any]]:
    """The condition of what a call for a user (None: for all) may see, and its parameters.

    now: nothing that was created later. tables: aliases of those that are joined by id, `r` and, for the
    counters, `c`; PostgreSQL does not see that a range of the one is a range of the other.
    """
    values = {name: value for name in _CONDITIONS if (value := getattr(filters, name)) is not None}
    conditions = [_CONDITIONS[name] for name in values]
    if user is not None:
        row = cursor.execute("SELECT number FROM memory_users WHERE name = %s", [user]).fetchone()
        number = 0 if row is None else row[0]  # no user has number 0
        conditions += [f"{table}.id >= %(first)s AND {table}.id < %(end)s" for table in tables]
        values |= {"first": number << USER_BITS, "end": (number + 1) << USER_BITS}
    if now is not None:
        conditions.append("r.created <= %(now)s")
        values["now"] = now
    return " AND ".join(conditions) or "true", values


def find_matches(
    cursor: "Cursor[Any]", query: Query, embedding: Vector, ids: Sequence[int] | None = None
) -> list[Match]:
    """The best k of what the query may see, best first; or, of that, all those of `ids`. embedding: [C]."""
    statement, values = scored(cursor, query, embedding, ids)
    cursor.execute(statement, values)
    return [Match(to_record(row[5:]), row[0], Terms(*row[1:5])) for row in cursor]


def scored(
    cursor: "Cursor[Any]", query: Query, embedding: Vector, ids: Sequence[int] | None = None
) -> tuple[str, dict[str, Any]]:
    """The statement of `find_matches` and its parameters."""
    where, values = visible(cursor, query.user, query.filters, query.now, BOTH)
    weights = query.weights
    statement = _SCORED.format(
        where=where if ids is None else f"{where} AND r.id = ANY(%(ids)s)",
        most=_MOST_OF_SEEN if ids is None else _MOST_OF_ALL.format(where=where),
        born="r.created" if weights.age_from == "created" else "c.accessed",
    )
    rough = embedding.astype(np.float16)
    return statement, {
        **values,
        "rough": HalfVector(rough),
        "rest": HalfVector((embedding - rough) * 1024),
        "half_life": weights.half_life,
        "w_rel": weights.relevance,
        "w_rec": weights.recency,
        "w_freq": weights.frequency,
        "w_sal": weights.saliency,
        "k": max(query.k, 0) if ids is None else len(ids),
        "ids": None if ids is None else list(ids),
    }


def find_words(
    cursor: "Cursor[Any]", user: str, text: str, k: int, filters: Filters
) -> list[tuple[int, float]]:
    """Ids and BM25 scores of the best k records in which a word of `text` stands."""
    split = cursor.execute("SELECT lexeme FROM unnest(to_tsvector('simple', %s))", [folded(text)])
    words = [word for (word,) in split]
    if not words:
        return []
    where, values = visible(cursor, user, filters)
    any_word = " | ".join(f"'{word}'" for word in words)  # letters and digits alone: see `folded`
    cursor.execute(
        _RANKED.format(where=where), {**values, "words": words, "any_word": any_word, "k": max(k, 0)}
    )
    return cursor.fetchall()


def folded(text: str) -> str:
    """The words of a text without case and accents, as FTS5 takes them: what PostgreSQL is given to index.

    Its own parser keeps "example.com" in one piece and, in a database of the C locale, the case of "Ä".
    At most 100,000 characters, because a `tsvector` has at most 1 MB.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text[:100_000]) if not unicodedata.combining(c))
    return " ".join(re.findall(r"[^\W_]+", plain.casefold()))[:100_000]


def to_record(row: Sequence[Any]) -> Record:
    """A row of `RECORDS` or `MERGED`."""
    id, user, text, embedding, modality, role, conversation, turn, path, sha256, copied, *rest = row
    media = None if sha256 is None else Media(path, sha256, copied)
    vector = embedding.to_numpy().astype("float32")
    return Record(id, user, text, vector, modality, role, conversation, turn, media, *rest)
