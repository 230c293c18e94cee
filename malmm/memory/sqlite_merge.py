"""Merging in a SQLite store: what `plan_merges` decides, carried out on its rows."""

import sqlite3

from malmm.memory.merging import Merge, Part, plan_merges
from malmm.memory.sqlite_index import log_changes
from malmm.memory.sqlite_rows import RECORDS, of_ids, of_user, pack, unpack
from malmm.memory.sqlite_words import add_words, remove_words

_TEXT_COLUMNS = "text, role, conversation, turn, media_path, media_sha256, media_copy, created"
_SAVED_COLUMNS = f"id, modality, {_TEXT_COLUMNS}, accessed, access_count, saliency, embedding"


def merge_records(db: sqlite3.Connection, user: int, excess: int) -> int:
    """Merge away `excess` records of a user, given by number, or as many as can be; -> how many."""
    rows = db.execute(
        f"SELECT id, modality, embedding, access_count, saliency, size FROM {RECORDS} "
        f"WHERE NOT pinned AND {(own := of_user(user)).sql} ORDER BY created, id",
        own.parameters,
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
    result = merge.result
    everyone = of_ids((result.id, *merge.absorbed))
    db.execute(
        f"INSERT INTO merged (into_id, {_SAVED_COLUMNS}) SELECT {result.id}, {_SAVED_COLUMNS} "
        f"FROM {RECORDS} WHERE size = 1 AND {everyone.sql}",
        everyone.parameters,
    )
    absorbed = of_ids(merge.absorbed)
    db.execute(
        f"UPDATE merged SET into_id = {result.id} WHERE into_{absorbed.sql}", absorbed.parameters
    )  # those of absorbed records that were merged before
    texts = dict(db.execute(f"SELECT id, text FROM records WHERE {everyone.sql}", everyone.parameters))
    remove_words(db, user, texts.items())
    add_words(db, user, [(result.id, texts[merge.shown])])
    db.execute(
        f"UPDATE records SET ({_TEXT_COLUMNS}) = (SELECT {_TEXT_COLUMNS} FROM records WHERE id = ?), "
        "saliency = ?, size = ? WHERE id = ?",
        (merge.shown, result.saliency, result.size, result.id),
    )
    db.execute(
        "UPDATE counters SET accessed = (SELECT accessed FROM counters WHERE id = ?), access_count = ? "
        "WHERE id = ?",
        (merge.shown, result.access_count, result.id),
    )
    db.execute("UPDATE vectors SET embedding = ? WHERE id = ?", (pack(result.embedding), result.id))
    db.execute(f"DELETE FROM records WHERE {absorbed.sql}", absorbed.parameters)
