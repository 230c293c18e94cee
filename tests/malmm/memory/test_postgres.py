"""What is PostgreSQL's own: the score in SQL, its plan, crashes, restarts, and what cannot be opened."""

import dataclasses
import hashlib
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malmm.errors import InputError
from malmm.memory.record import Draft, Media, Query, Weights
from malmm.memory.scoring import score_terms
from malmm.memory.store import MemoryStore, open_store
from tests.malmm.memory.postgres_server import Database, started_server

ENCODER = {"name": "test"}
WIDTH = 64
NOW = 1_000_000_000.0


@pytest.fixture
def url(postgres: Database) -> Iterator[str]:
    """Where a store may be made."""
    with postgres.schema() as url:
        yield url


@pytest.fixture
def memory(url: str) -> Iterator[MemoryStore]:
    with open_store(url, WIDTH, ENCODER) as memory:
        yield memory


def drafts(count: int, user: str = "ann", seed: int = 0) -> list[Draft]:
    random = np.random.default_rng(seed)
    return [
        Draft(
            user, f"record {n}", random.normal(size=WIDTH),
            created=NOW - float(random.exponential(5 * 86400)),
            saliency=float(random.random()), pinned=bool(random.random() < 0.1),
        )
        for n in range(count)
    ]  # fmt: skip


def query_as_it_runs(memory: Any, query: Query) -> tuple[str, dict[str, Any]]:
    from malmm.memory.postgres_queries import scored

    with memory._connections.transaction() as cursor:
        return scored(cursor, query, np.asarray(query.embedding, np.float32))


# --- the score ---


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])  # a user an example
@given(
    weights=st.builds(
        Weights,
        *[st.floats(0, 2)] * 4,
        half_life=st.floats(1.0, 1e9),
        age_from=st.sampled_from(["created", "accessed"]),
    ),
    seed=st.integers(0, 1000),
    days=st.floats(-20, 20),
)
def test_the_score_in_sql_is_the_score(memory: MemoryStore, weights: Weights, seed: int, days: float):
    random = np.random.default_rng(seed)
    user = uuid.uuid4().hex
    given_drafts = drafts(30, user, seed)
    ids = memory.add(given_drafts)
    for _ in range(8):
        memory.touch(user, random.choice(ids, 5).tolist(), NOW - float(random.exponential(86400)))
    query = Query(random.normal(size=WIDTH), user, NOW + days * 86400, 30, weights)
    seen = [record for record in memory.get(user, ids) if record.created <= query.now]
    matches = memory.search(query)
    assert len(matches) == len(seen)
    if not seen:
        return
    # Of the embeddings as they were given and not as they are kept: half precision is within the tolerance.
    exact = {
        id: draft.embedding / np.linalg.norm(draft.embedding)
        for id, draft in zip(ids, given_drafts, strict=True)
    }
    scores, terms = score_terms(
        np.array([exact[r.id] for r in seen]) @ (query.embedding / np.linalg.norm(query.embedding)),
        np.array([r.created for r in seen]),
        np.array([r.accessed for r in seen]),
        np.array([r.access_count for r in seen]),
        np.array([1.0 if r.pinned else r.saliency for r in seen]),
        query.now,
        weights,
        max(r.access_count for r in seen),
    )
    wanted = {r.id: (s, t) for r, s, t in zip(seen, scores, terms, strict=True)}
    for match in matches:
        score, parts = wanted[match.record.id]
        assert match.score == pytest.approx(score, abs=1e-3)
        assert dataclasses.astuple(match.terms) == pytest.approx(parts, abs=1e-3)


def test_a_user_is_found_by_the_range_of_his_ids(memory: MemoryStore, url: str):
    for n in range(20):
        memory.add(drafts(50, user=f"user{n}", seed=n))
    statement, values = query_as_it_runs(memory, Query(np.ones(WIDTH), "user7", NOW, 5))
    with memory._connections.transaction() as cursor:  # type: ignore[attr-defined]
        cursor.execute("ANALYZE memory_records, memory_counters")
        plan = "\n".join(row[0] for row in cursor.execute(f"EXPLAIN {statement}", values))
    (first,) = {record.id >> 32 for record in memory.records("user7", limit=1)}
    for table in ("memory_records", "memory_counters"):
        assert f"Seq Scan on {table}" not in plan
    condition = f"Index Cond: ((id >= '{first << 32}'::bigint) AND (id < '{(first + 1) << 32}'::bigint))"
    assert plan.count(condition) >= 2


def test_words_do_not_depend_on_case_accents_or_the_parsers_idea_of_a_word(memory: MemoryStore):
    texts = ["Ärger in the CAFÉ", "see example.com/cup_holder", "İstanbul straße"]
    ids = memory.add([dataclasses.replace(d, text=t) for d, t in zip(drafts(3), texts, strict=True)])
    for question, wanted in [("arger", 0), ("cafe", 0), ("Example", 1), ("holder", 1), ("STRASSE", 2)]:
        assert [id for id, _ in memory.search_text("ann", question)] == [ids[wanted]]


def test_the_words_score_is_bm25(memory: MemoryStore):
    texts = ["red red cup", "red ball", "green tree by the house"]
    ids = memory.add([dataclasses.replace(d, text=t) for d, t in zip(drafts(3), texts, strict=True)])

    def bm25(times: int, length: int, having: int) -> float:
        rarity = np.log(1 + (3 - having + 0.5) / (having + 0.5))
        return rarity * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length / 3))  # 2, 2 and 5 different words

    found = dict(memory.search_text("ann", "red cup"))
    assert found == pytest.approx({ids[0]: bm25(2, 2, 2) + bm25(1, 2, 1), ids[1]: bm25(1, 2, 2)})


def test_stores_in_two_schemas_of_a_database_are_two(postgres: Database, url: str):
    with postgres.schema() as other, open_store(other, WIDTH, ENCODER) as theirs:
        theirs.add(drafts(1))
        (first,), (second,) = (re.findall(r"test_\w+", one) for one in (url, other))
        with open_store(url.replace(first, f"{first},{second}"), 8, {"name": "another"}) as ours:
            assert ours.count() == 0 and theirs.count() == 1


def test_pgvector_in_a_schema_that_is_not_searched(url: str):
    assert "lies in a schema that is not searched" in refusal(url.replace(",public", ""))


# --- several processes, crashes, restarts ---

MAKER = """
import sys
from malmm.memory.store import open_store
open_store(sys.argv[1], 8, {"name": "test"}).close()
"""
COUNTER = """
import sys
from malmm.memory.store import open_store
with open_store(sys.argv[1], int(sys.argv[2]), {"name": "test"}) as memory:
    for _ in range(200):
        memory.touch("ann", [int(id) for id in sys.argv[3:]])
"""
WRITER = """
import itertools, sys
import numpy as np
from malmm.memory.record import Draft
from malmm.memory.store import open_store
memory = open_store(sys.argv[1], int(sys.argv[2]), {"name": "test"})
for n in itertools.count():
    ids = memory.add([Draft("ann", f"{n} {part}", np.ones(memory.width)) for part in "abc"])
    print(*ids, flush=True)
"""


def start(project: Path, script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True)


def test_400_counts_from_two_processes_are_400(memory: MemoryStore, url: str, project: Path):
    ids = memory.add(drafts(3))
    writers = [start(project, COUNTER, url, WIDTH, *order) for order in (ids, ids[::-1])]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert [record.access_count for record in memory.get("ann", ids)] == [400] * 3


def test_a_killed_writer_leaves_what_it_acknowledged_and_nothing_half(
    memory: MemoryStore, url: str, project: Path
):
    acknowledged: list[int] = []
    for lines in (3, 10):
        with start(project, WRITER, url, WIDTH) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                acknowledged += map(int, writer.stdout.readline().split())
            writer.kill()
            for line in writer.stdout:
                acknowledged += map(int, line.split())
    assert len(acknowledged) >= 39
    assert len(memory.get("ann", acknowledged)) == len(acknowledged)
    stored = memory.records("ann", limit=10_000)
    assert len(stored) - len(acknowledged) in (0, 3, 6)  # committed, and killed before it could say so
    assert len({record.id for record in stored}) == len(stored)
    assert memory.add(drafts(1))[0] not in {record.id for record in stored}


def test_two_that_make_the_store_at_once_get_one(url: str, project: Path):
    makers = [start(project, MAKER, url) for _ in range(3)]
    assert [maker.wait() for maker in makers] == [0, 0, 0]
    with open_store(url, 8, ENCODER) as memory:
        assert memory.count() == 0


def test_a_lost_connection_is_replaced(memory: MemoryStore, postgres: Database):
    ids = memory.add(drafts(3))
    postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    assert len(memory.get("ann", ids)) == 3
    memory.touch("ann", ids)


def test_a_connection_lost_within_a_call_gives_one_sentence_and_keeps_nothing_of_it(
    memory: MemoryStore, postgres: Database
):
    memory.add(drafts(1))
    with pytest.raises(InputError, match=r"^database .* did not do what was asked .*try again$"):  # noqa: SIM117
        with memory._connections.transaction() as cursor:  # type: ignore[attr-defined]
            cursor.execute("UPDATE memory_counters SET access_count = 7")
            postgres.run("SELECT pg_terminate_backend(%s)", [cursor.connection.info.backend_pid])
            cursor.execute("SELECT 1")
    assert [record.access_count for record in memory.records("ann")] == [0]


@pytest.mark.slow  # a server of its own, and the wait for one that is gone
def test_a_server_that_goes_and_comes_back():
    with started_server() as server, open_store(server.get_uri(), WIDTH, ENCODER) as memory:
        ids = memory.add(drafts(3))
        server.stop()
        with pytest.raises(InputError, match="cannot connect to database postgres") as refused:
            memory.get("ann", ids)
        assert "\n" not in str(refused.value)
        server.ensure_postgres_running()
        assert len(memory.get("ann", ids)) == 3
        assert memory.add(drafts(1)) == [ids[-1] + 1]


# --- deletion and media ---


def test_nothing_of_a_deleted_user_remains_in_the_tables(memory: MemoryStore, url: str, tmp_path: Path):
    import psycopg

    path = tmp_path / "a.png"
    path.write_bytes(b"a picture")
    media = Media(str(path), hashlib.sha256(b"a picture").hexdigest(), copied=True)
    ids = memory.add([dataclasses.replace(draft, media=media) for draft in drafts(5)])
    memory.merge("ann", 2)
    copy = memory.media_file(media)
    assert copy is not None and copy.exists()
    assert memory.delete("ann", ids) == 2
    assert not copy.exists()
    with closing(psycopg.connect(url)) as connection:
        for table in ("users", "records", "counters", "merged", "media"):
            assert connection.execute(f"SELECT count(*) FROM memory_{table}").fetchone() == (0,), table


# --- what cannot be opened ---


def refusal(url: str, width: int = WIDTH, encoder: dict[str, Any] = ENCODER) -> str:
    with pytest.raises(InputError) as refused:
        open_store(url, width, encoder)
    text = str(refused.value)
    assert "\n" not in text and "s3cret" not in text
    assert refused.value.__cause__ is None or "s3cret" not in str(refused.value.__cause__)
    return text


def test_without_its_packages_it_says_which(monkeypatch: pytest.MonkeyPatch):
    for module in [name for name in sys.modules if name.startswith("malmm.memory.postgres")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pgvector", None)
    assert "needs pgvector: pip install" in refusal("postgresql://me@127.0.0.1/memory")


@pytest.mark.parametrize(
    "url, words",
    [
        ("postgresql://me:s3cret@127.0.0.1:1/memory", "cannot connect to database memory on 127.0.0.1"),
        ("postgresql://me:s3cret@host.invalid/memory", "cannot connect to database memory on host.invalid"),
        ("postgresql://me:s3cret s3cret@127.0.0.1/memory", "URL cannot be read"),
        ("postgresql://me:s3cret@127.0.0.1/memory?no=such", "URL cannot be read"),
        ("postgresql://me:s3cret@[::1/memory", "URL cannot be read"),
    ],
)
def test_a_server_out_of_reach_or_a_bad_url(url: str, words: str):
    pytest.importorskip("psycopg_pool")
    assert words in refusal(url)


def test_a_database_that_is_not_there(postgres: Database):
    import psycopg

    missing = psycopg.conninfo.make_conninfo(postgres.url, dbname="nowhere")
    parts = psycopg.conninfo.conninfo_to_dict(missing)
    url = f"postgresql:///nowhere?{'&'.join(f'{key}={value}' for key, value in parts.items() if value)}"
    assert "make it with `createdb nowhere`" in refusal(url)


def test_another_version_is_refused(url: str, postgres: Database):
    import psycopg

    open_store(url, WIDTH, ENCODER).close()
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute("UPDATE memory_metadata SET schema_version = 99")
    assert "has schema version 99, this program reads 1" in refusal(url)


def test_pgvector_that_is_missing_and_may_not_be_made(postgres: Database):
    import psycopg

    name = f"plain_{np.random.default_rng().integers(1 << 60)}"
    postgres.run(f"CREATE ROLE {name} LOGIN PASSWORD 's3cret'")
    postgres.run(f"CREATE DATABASE {name} OWNER {name}")
    parts = psycopg.conninfo.conninfo_to_dict(postgres.url)
    parts |= {"dbname": name, "user": name, "password": "s3cret"}
    url = f"postgresql:///?{'&'.join(f'{key}={value}' for key, value in parts.items() if value)}"
    try:
        assert "let an administrator of the server run `CREATE EXTENSION vector`" in refusal(url)
    finally:
        postgres.run(f"DROP DATABASE {name} WITH (FORCE)")
        postgres.run(f"DROP ROLE {name}")


def test_a_role_without_rights_on_the_tables(url: str, postgres: Database):
    name = f"guest_{np.random.default_rng().integers(1 << 60)}"
    open_store(url, WIDTH, ENCODER).close()
    postgres.run(f"CREATE ROLE {name} LOGIN PASSWORD 's3cret'")
    try:
        text = refusal(f"{url}&user={name}&password=s3cret")
    finally:
        postgres.run(f"DROP ROLE {name}")
    assert "the memory's tables cannot be made or read" in text
