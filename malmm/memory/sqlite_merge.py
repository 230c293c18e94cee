"""Merging in a SQLite store: what `plan_merges` decides, carried out on its rows."""

import sqlite3

from malmm.memory.merging import Merge, Part, plan_merges
from malmm.memory.sqlite_content import add_words, remove_words
from malmm.memory.sqlite_fetch import of_records, pack, unpack
from malmm.memory.sqlite_index import log_changes
from malmm.memory.sqlite_rows import of_ids

_SHOWN = "role, conversation, turn, media_sha256, media_copy, created"
_SAVED = f"id, modality, {_SHOWN}, accessed, access_count, saliency, size"


def merge_records(db: sqlite3.Connection, user: int, excess: int) -> int:
    """Merge away `excess` records of a user, given by number, or as many as can be; -> how many."""
    rows = db.execute(
        f"SELECT id, modality, embedding, access_count, saliency, size FROM {of_records(user)} "
        "WHERE NOT pinned ORDER BY created, id"
    )
    parts = [Part(id, modality, unpack(blob), *rest) for id, modality, blob, *rest in rows]
    merges = plan_merges(parts, excess)
    for merge in merges:
        _carry_out(db, user, merge)
    absorbed = [id for merge in merges for id in merge.absorbed]
    log_changes(db, [*absorbed, *(merge.result.id for merge in merges)])
    return len(absorbed)


def _carry_out(db: sqlite3.Connection, user: int, merge: Merge) -> None:
    """Keep the originals, give the remaining record its new content, delete the absorbed ones."""
    result, content = merge.result, f"content_{user}"
    absorbed = of_ids(merge.absorbed)
    remove_words(db, user, (result.id, *merge.absorbed))
    _keep_originals(db, user, merge)
    db.execute(
        f"UPDATE records SET ({_SHOWN}) = (SELECT {_SHOWN} FROM records WHERE id = ?), "
        "saliency = ?, size = ? WHERE id = ?",
        (merge.shown, result.saliency, result.size, result.id),
    )
    db.execute(
        "UPDATE counters SET accessed = (SELECT accessed FROM counters WHERE id = ?), access_count = ? "
        "WHERE id = ?",
        (merge.shown, result.access_count, result.id),
    )
    db.execute(
        f"UPDATE {content} SET (text, media_path) = (SELECT text, media_path FROM {content} WHERE id = ?), "
        "embedding = ? WHERE id = ?",
        (merge.shown, pack(result.embedding), result.id),
    )
    add_words(db, user, db.execute(f"SELECT id, text FROM {content} WHERE id = ?", (result.id,)).fetchall())
    db.execute(f"DELETE FROM records WHERE {absorbed.sql}", absorbed.parameters)
    db.execute(f"DELETE FROM {content} WHERE {absorbed.sql}", absorbed.parameters)


def _keep_originals(db: sqlite3.Connection, user: int, merge: Merge) -> None:
    """Note what is merged as it was, content at minus its id; what was merged earlier follows."""
    into, content = merge.result.id, f"content_{user}"
    absorbed = of_ids(merge.absorbed)
    everyone = of_ids((into, *merge.absorbed))
    originals = (
        f"{everyone.sql} AND NOT EXISTS (SELECT 1 FROM merged WHERE into_id = {{}}.id)"  # not itself merged
    )
    db.execute(
        f"INSERT INTO {content} SELECT -id, text, media_path, embedding FROM {content} "
        f"WHERE {originals.format(content)}",
        everyone.parameters,
    )
    db.execute(
        f"INSERT INTO merged (into_id, {_SAVED}) SELECT {into}, {_SAVED} "
        f"FROM records JOIN counters USING (id) WHERE {originals.format('records')}",
        everyone.parameters,
    )
    db.execute(f"UPDATE merged SET into_id = {into} WHERE into_{absorbed.sql}", absorbed.parameters)
