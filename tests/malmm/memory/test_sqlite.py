"""The SQLite file: what it refuses, how it comes up to date, and what remains of what was deleted."""

import hashlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from malmm.errors import InputError
from malmm.memory import sqlite_index
from malmm.memory.checks import unit_vector
from malmm.memory.record import Draft, Media, Query
from malmm.memory.sqlite import SQLiteStore
from malmm.memory.sqlite_content import make_tables
from malmm.memory.sqlite_fetch import pack
from malmm.memory.sqlite_schema import APPLICATION_ID, STEPS, VERSION
from tests.malmm.memory.sqlite_consistency import check_consistency

ENCODER = {"name": "test"}
WIDTH = 64


def open_store(path: Path) -> SQLiteStore:
    return SQLiteStore(path, WIDTH, ENCODER)


def vector(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)


def drafts(count: int, user: str = "ann", word: str = "word") -> list[Draft]:
    return [Draft(user, f"{word}{n} common", vector(n), created=float(n)) for n in range(count)]


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_store(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


# --- files that are no store ---


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("a shopping list, much longer than a header\n" * 50)
    before = path.read_bytes()
    assert "is no SQLite database" in refusal(path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE things (name)")
    db.close()
    before = path.read_bytes()
    assert "of another program" in refusal(path)
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused(tmp_path: Path):
    path = tmp_path / "m.db"
    open_store(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    assert f"schema version {VERSION + 1}" in refusal(path)


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, kept: float):
    path = tmp_path / "m.db"
    with open_store(path) as memory:
        memory.add(drafts(200))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert "damaged or cut short" in refusal(path)


def test_damage_inside_is_one_sentence_when_it_is_met(tmp_path: Path):
    path = tmp_path / "m.db"
    with open_store(path) as memory:
        ids = memory.add(drafts(200))
    content = bytearray(path.read_bytes())
    content[len(content) // 4 :] = b"\x55" * (len(content) - len(content) // 4)
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged or cut short"), open_store(path) as memory:
        memory.get("ann", ids)


def test_a_folder_is_refused(tmp_path: Path):
    assert "is a folder" in refusal(tmp_path)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a file system that nobody can write to")
def test_a_place_that_cannot_be_written_is_refused():
    assert "cannot be written" in refusal(Path("/proc/memory.db"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path):
    path = tmp_path / "m.db"
    open_store(path).close()
    path.chmod(0o400)
    assert "cannot be written" in refusal(path)


def test_only_the_owner_can_read_what_is_remembered(tmp_path: Path):
    picture = tmp_path / "cup.png"
    picture.write_bytes(b"a cup")
    with open_store(tmp_path / "new" / "m.db") as memory:
        media = Media(str(picture), hashlib.sha256(b"a cup").hexdigest(), copied=True)
        memory.add([Draft("ann", "a cup", vector(0), media=media)])
        for file in (tmp_path / "new").iterdir():
            assert file.stat().st_mode & 0o077 == 0, file


# --- versions ---


def test_a_file_of_version_1_is_brought_up_to_date(tmp_path: Path):
    path = tmp_path / "m.db"
    id = (1 << 32) + 1
    db = sqlite3.connect(path)
    for statement in STEPS[0]:
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute("PRAGMA user_version = 1")
    db.execute(f"INSERT INTO metadata VALUES ('width', '{WIDTH}'), ('encoder', '{{\"name\": \"test\"}}')")
    db.execute("INSERT INTO users VALUES (1, 'ann', 1)")
    make_tables(db, 1)
    db.execute("INSERT INTO conversations VALUES (1, 'monday')")
    db.execute("INSERT INTO records VALUES (?, 0, 1, 3, NULL, NULL, 5.0, 0.25, 0, 1)", (id,))
    embedding = pack(unit_vector(vector(0), WIDTH))
    db.execute("INSERT INTO content_1 VALUES (?, 'an old one', NULL, ?)", (id, embedding))
    db.execute("INSERT INTO words_1 (rowid, text) VALUES (?, 'an old one')", (id,))
    db.execute("INSERT INTO counters VALUES (?, 6.0, 2)", (id,))
    db.commit()
    db.close()
    for _ in range(2):  # the second time nothing is left to do
        with open_store(path) as memory:
            (record,) = memory.records("ann")
            assert (record.id, record.text, record.role, record.turn) == (id, "an old one", "user", 3)
            assert (record.accessed, record.access_count, record.saliency) == (6.0, 2, 0.25)
            assert [match.record.id for match in memory.search(Query(vector(0), "ann", 9.0))] == [id]
    with open_store(path) as memory:
        memory.add([Draft("ann", "a new one", vector(0), role="assistant", created=7.0)])
        assert memory.merge("ann", 1) == 1
        assert [one.role for one in memory.merged("ann", id)] == ["user", "assistant"]
    check_consistency(path)
    fresh = tmp_path / "fresh.db"
    with open_store(fresh) as memory:
        memory.add(drafts(1))
    assert schema(path) == schema(fresh)


def schema(path: Path) -> tuple[int, list[tuple[str, str]]]:
    db = sqlite3.connect(path)
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        return version, db.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    finally:
        db.close()


# --- what is deleted is gone ---


def everything_on_disk(folder: Path) -> bytes:
    """All bytes of the files. By another process: whoever closes a file loses SQLite's locks on it."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return subprocess.run(["cat", *files], capture_output=True, check=True).stdout


def test_nothing_of_a_deleted_text_or_vector_remains_in_any_file(tmp_path: Path):
    random = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    live: dict[int, tuple[str, str, np.ndarray]] = {}
    gone: list[tuple[str, np.ndarray]] = []
    path = tmp_path / "m.db"
    with open_store(path) as memory:
        for _ in range(12):
            batch = []
            for _ in range(int(random.choice([1, 5, 40]))):
                word = "zq" + "".join(random.choice(letters, 18))
                text = "common words " * int(random.choice([0, 1, 200])) + word
                batch.append(Draft(str(random.choice(["ann", "bob", "cy"])), text, random.normal(size=WIDTH)))
            for id, draft in zip(memory.add(batch), batch, strict=True):
                live[id] = (draft.user, draft.text, unit_vector(draft.embedding, WIDTH))
            user = live[int(random.choice(list(live)))][0]
            own = [id for id in live if live[id][0] == user]
            chosen = random.choice(own, max(1, len(own) // 3), replace=False).tolist()
            assert memory.delete(user, chosen) == len(chosen)
            deleted = [live.pop(id)[1:] for id in chosen]
            gone += deleted
            check_gone(deleted, everything_on_disk(tmp_path))
        content = everything_on_disk(tmp_path)
    check_gone(gone, content)
    for _, text, embedding in live.values():
        assert text[-20:].encode() in content and pack(embedding) in content
    assert len(gone) > 50


def check_gone(deleted: list[tuple[str, np.ndarray]], content: bytes) -> None:
    """Neither the rare word at a text's end, nor its beginning or end, nor half of a vector."""
    for text, embedding in deleted:
        assert text[-17:].encode() not in content and text[-20:-6].encode() not in content
        assert pack(embedding)[:32] not in content and pack(embedding)[-32:] not in content


def test_nothing_of_a_replaced_text_or_of_what_was_merged_remains(tmp_path: Path):
    with open_store(tmp_path / "m.db") as memory:
        ids = memory.add(
            [
                Draft("ann", f"secretword{n}", vector(n // 2), created=float(n), conversation="hidden")
                for n in range(4)
            ]
        )
        memory.add([Draft("ann", "stays", vector(9), created=9.0, pinned=True)])
        memory.update("ann", ids[3], text="harmless")
        assert b"secretword3" not in everything_on_disk(tmp_path)
        memory.merge("ann", 2)
        assert b"secretword0" in everything_on_disk(tmp_path)
        memory.delete("ann", ids)
        content = everything_on_disk(tmp_path)
        assert b"secret" not in content and b"hidden" not in content and b"stays" in content
        for n in (0, 1):
            assert pack(unit_vector(vector(n), WIDTH))[:32] not in content
    check_consistency(tmp_path / "m.db")


def test_a_user_who_deletes_everything_leaves_not_even_a_name(tmp_path: Path):
    with open_store(tmp_path / "m.db") as memory:
        memory.add(drafts(3))
        memory.delete("leaving", memory.add([Draft("leaving", "goodbye", vector(0))]))
        content = everything_on_disk(tmp_path)
    assert b"goodbye" not in content and memory.path.is_file()
    check_consistency(tmp_path / "m.db")


# --- media and kills ---


def test_copies_that_a_kill_left_without_a_record_are_deleted_when_the_store_is_opened(tmp_path: Path):
    path = tmp_path / "m.db"
    open_store(path).close()
    name = "ab" * 32 + ".png"
    copy = tmp_path / "m.db.media" / "ab" / name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"left")
    copy.with_name(name + ".tmp").write_bytes(b"half")
    with sqlite3.connect(path) as db:  # as it is noted before a copy is made
        db.execute("INSERT INTO leftovers VALUES (?)", (name,))
    db.close()
    open_store(path).close()
    assert not copy.exists() and not copy.with_name(name + ".tmp").exists()


# --- a full disk ---


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path):
    path = tmp_path / "m.db"
    with open_store(path) as memory:
        ids = memory.add(drafts(50))
        db = memory._file._db
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(InputError, match=r"the disk is full: free some space"):
            memory.add(drafts(200, word="more"))
        memory.touch("ann", ids)
        assert memory.count("ann") == 50
        db.execute("PRAGMA max_page_count = 1000000")
        memory.add(drafts(200, word="more"))
        assert len(memory.search(Query(vector(0), "ann", 1e9, k=300))) == 250
    check_consistency(path)


WRITE_TO_THE_LIMIT = """
import resource, signal, sys
from tests.malmm.memory.test_sqlite import drafts, open_store
from pathlib import Path
from malmm.errors import InputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
memory = open_store(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    while True:
        print(*memory.add(drafts(20)), flush=True)
except InputError as error:
    print("error:", error)
"""


def test_a_disk_that_takes_no_more_is_one_sentence_and_loses_nothing(tmp_path: Path, project: Path):
    path = tmp_path / "m.db"
    ended = subprocess.run(
        [sys.executable, "-c", WRITE_TO_THE_LIMIT, path], capture_output=True, text=True, cwd=project
    )
    assert ended.stderr == ""
    *confirmed, error = ended.stdout.splitlines()
    assert error.startswith(f"error: the memory {path} cannot") and len(confirmed) > 2
    with open_store(path) as memory:
        ids = [int(id) for line in confirmed for id in line.split()]
        assert [record.id for record in memory.get("ann", ids)] == ids
    check_consistency(path)


# --- several processes ---

INCREMENT = """
import sys
from pathlib import Path
from tests.malmm.memory.test_sqlite import drafts, open_store
with open_store(Path(sys.argv[1])) as memory:
    sys.stdin.readline()
    for n in range(200):
        memory.touch("ann", [int(sys.argv[2])], float(n))
        if n % 20 == 0:
            memory.delete("bob", memory.add(drafts(2, user="bob"))[:1])
"""


def test_four_hundred_increments_of_two_processes_are_four_hundred(tmp_path: Path, project: Path):
    path = tmp_path / "m.db"
    with open_store(path) as memory:
        (id,) = memory.add(drafts(1))
        command = [sys.executable, "-c", INCREMENT, str(path), str(id)]
        processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, text=True, cwd=project) for _ in range(2)
        ]
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        while any(process.poll() is None for process in processes):
            memory.search(Query(vector(0), "ann", 1e9))  # whoever reads meanwhile is not in the way
        assert [process.wait() for process in processes] == [0, 0]
        (match,) = memory.search(Query(vector(0), "ann", 1e9))
        assert match.record.access_count == 400
        assert memory.count("bob") == 20
        assert len(memory.search(Query(vector(0), "bob", 1e9, k=100))) == 20
    check_consistency(path)


ADD_ONE = """
import sys
from pathlib import Path
from tests.malmm.memory.test_sqlite import drafts, open_store
sys.stdin.readline()
open_store(Path(sys.argv[1])).add(drafts(1))
"""


def test_several_processes_may_make_the_store_at_once(tmp_path: Path, project: Path):
    command = [sys.executable, "-c", ADD_ONE, str(tmp_path / "m.db")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True, cwd=project) for _ in range(4)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait() for process in processes] == [0] * 4
    with open_store(tmp_path / "m.db") as memory:
        assert memory.count("ann") == 4
    check_consistency(tmp_path / "m.db")


def test_an_index_that_missed_more_than_the_log_keeps_loads_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sqlite_index, "KEPT_CHANGES", 5)
    monkeypatch.setattr(sqlite_index, "_TRIMMED_EVERY", 1)
    query = Query(vector(0), "ann", 1e9, k=100)
    with open_store(tmp_path / "m.db") as memory, open_store(tmp_path / "m.db") as other:
        ids = memory.add(drafts(30))
        assert len(other.search(query)) == 30
        for id in ids[:10]:
            memory.delete("ann", [id])
        assert [match.record.id for match in other.search(query)] == [
            match.record.id for match in memory.search(query)
        ]
        assert len(other.search(query)) == 20
        (changes,) = memory._file._db.execute("SELECT count(*) FROM changes").fetchone()
        assert changes == 5
