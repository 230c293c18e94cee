"""The index against a plain list of records, scored one by one."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmm.memory.index import EVERYTHING, USER_BITS, ReadVectors, Restriction, Rows, VectorIndex
from malmm.memory.record import Weights

QUIET = settings(deadline=None)  # a busy machine is no failure
DAY = 86400.0


@dataclass(frozen=True)
class Item:
    """One record as the reference sees it."""

    id: int
    vector: np.ndarray
    created: float = 0.0
    accessed: float = 0.0
    count: int = 0
    saliency: float = 0.0
    modality: int = 0
    role: int = 0
    pinned: bool = False
    conversation: int = 0


def rows_of(items: list[Item]) -> Rows:
    return Rows(
        ids=np.array([item.id for item in items], np.int64),
        vectors=np.stack([item.vector for item in items]),
        created=np.array([item.created for item in items], np.float64),
        accessed=np.array([item.accessed for item in items], np.float64),
        counts=np.array([item.count for item in items], np.int64),
        saliency=np.array([item.saliency for item in items], np.float32),
        modality=np.array([item.modality for item in items], np.int8),
        role=np.array([item.role for item in items], np.int8),
        pinned=np.array([item.pinned for item in items], np.bool_),
        conversation=np.array([item.conversation for item in items], np.int64),
    )


def visible(item: Item, now: float, only: Restriction) -> bool:
    return (
        item.created <= now
        and only.conversation in (None, item.conversation)
        and only.exclude_conversation != item.conversation
        and only.modality in (None, item.modality)
        and only.role in (None, item.role)
        and only.pinned in (None, item.pinned)
        and (only.after is None or item.created >= only.after)
        and (only.before is None or item.created < only.before)
    )


def expected(
    items: list[Item], query: np.ndarray, user: int | None, weights: Weights, now: float, only: Restriction
) -> dict[int, float]:
    """Scores of all records that the search may see, by id."""
    seen = [item for item in items if visible(item, now, only) and user in (None, item.id >> USER_BITS)]
    most: dict[int, int] = {}
    for item in seen:
        most[item.id >> USER_BITS] = max(most.get(item.id >> USER_BITS, 0), item.count)
    scores = {}
    for item in seen:
        cosine = float(item.vector.astype(np.float64) @ query)
        born = item.created if weights.age_from == "created" else item.accessed
        highest = most[item.id >> USER_BITS]
        scores[item.id] = (
            weights.relevance * min(max(cosine, 0.0), 1.0)
            + weights.recency * 2 ** (-max(now - born, 0.0) / weights.half_life)
            + weights.frequency * (math.log(1 + item.count) / math.log(1 + highest) if highest else 0.0)
            + weights.saliency * item.saliency
        )
    return scores


def reader(items: list[Item]) -> ReadVectors:
    """What a store does: the vectors of some ids."""
    vectors = {item.id: item.vector for item in items}
    return lambda ids: {id: vectors[id] for id in ids.tolist() if id in vectors}


def check(index: VectorIndex, items: list[Item], query: np.ndarray, user: int | None, k: int,
          weights: Weights, now: float, only: Restriction) -> None:  # fmt: skip
    found = index.search(query, user, k, weights, now, reader(items), only)
    scores = expected(items, query, user, weights, now, only)
    best = sorted(scores.values(), reverse=True)[:k]
    assert len(set(found.ids.tolist())) == len(best)
    np.testing.assert_allclose(found.scores, best, atol=1e-6)
    np.testing.assert_allclose(found.scores, [scores[id] for id in found.ids.tolist()], atol=1e-6)
    order = list(zip(-found.scores, found.ids, strict=True))
    assert order == sorted(order)
    terms = np.array([weights.relevance, weights.recency, weights.frequency, weights.saliency])
    np.testing.assert_allclose(found.terms @ terms, found.scores, atol=1e-9)


WIDTH = 8
NUMBERS = st.integers(0, 2)
TIMES = st.integers(0, 20).map(lambda days: days * DAY)
SHARES = st.sampled_from([0.0, 0.25, 1.0])
IDS = st.builds(lambda user, own: (user << USER_BITS) + own, st.integers(1, 3), st.integers(1, 12))


@st.composite
def directions(draw: st.DrawFn) -> np.ndarray:
    """Unit vectors, few enough for equal ones to be frequent."""
    rng = np.random.default_rng(draw(st.integers(0, 5)))
    vector = rng.normal(size=WIDTH)
    return (vector / np.linalg.norm(vector)).astype(np.float16)


ITEMS = st.builds(
    Item, IDS, directions(), TIMES, TIMES, st.integers(0, 4), SHARES, NUMBERS, NUMBERS, st.booleans(), NUMBERS
)
PUT = st.lists(ITEMS, min_size=1, max_size=12, unique_by=lambda item: item.id)
REMOVE = st.lists(IDS, max_size=4)
TOUCH = st.lists(st.tuples(IDS, TIMES, st.integers(0, 9)), max_size=4, unique_by=lambda change: change[0])
DROP = st.integers(1, 3)
RESTRICTIONS = st.builds(
    Restriction, *(st.none() | NUMBERS for _ in range(4)), st.none() | TIMES, st.none() | TIMES,
    st.none() | st.booleans(),
)  # fmt: skip
WEIGHTS = st.builds(
    Weights, SHARES, SHARES, SHARES, SHARES, st.sampled_from([DAY, 30 * DAY]),
    st.sampled_from(["created", "accessed"]),
)  # fmt: skip
SEARCH = st.tuples(
    directions(), st.none() | st.integers(1, 4), st.integers(1, 20), WEIGHTS, TIMES, RESTRICTIONS
)


@QUIET
@given(st.lists(st.one_of(PUT.map(lambda x: ("put", x)), REMOVE.map(lambda x: ("remove", x)),
                          TOUCH.map(lambda x: ("touch", x)), DROP.map(lambda x: ("drop", x)),
                          SEARCH.map(lambda x: ("search", x))), max_size=12), SEARCH)  # fmt: skip
def test_any_order_of_changes_and_searches(steps: list, last: tuple) -> None:
    index, items = VectorIndex(WIDTH), {}
    for kind, step in [*steps, ("search", last)]:
        if kind == "put":
            index.put(rows_of(step))
            items |= {item.id: item for item in step}
        elif kind == "remove":
            index.remove(np.array(step, np.int64))
            items = {id: item for id, item in items.items() if id not in step}
        elif kind == "touch":
            ids, accessed, counts = zip(*step, strict=True) if step else ((), (), ())
            index.set_counters(np.array(ids, np.int64), np.array(accessed), np.array(counts, np.int64))
            for id, moment, count in step:
                if id in items:
                    items[id] = replace(items[id], accessed=moment, count=count)
        elif kind == "drop":
            index.drop(step)
            items = {id: item for id, item in items.items() if id >> USER_BITS != step}
        else:
            query, *rest = step
            check(index, [*items.values()], query.astype(np.float32), *rest)
        assert len(index) == len(items)


def many(count: int, width: int, users: int, seed: int, clustered: bool) -> list[Item]:
    """Records about a few topics or about none."""
    rng = np.random.default_rng(seed)
    topics = rng.normal(size=(12, width)) * clustered
    vectors = topics[rng.integers(12, size=count)] + 0.7 * rng.normal(size=(count, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        Item(
            id=(1 + i % users << USER_BITS) + 1 + i // users,
            vector=vectors[i].astype(np.float16),
            created=30 * DAY * rng.random(),
            accessed=30 * DAY,
            count=int(rng.geometric(0.3)) - 1,
            saliency=float(np.float32(rng.random())),
            modality=int(rng.integers(3)),
            conversation=int(rng.integers(20)),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("clustered", [True, False])
@pytest.mark.parametrize("width", [64, 100])
def test_many_records(width: int, clustered: bool) -> None:
    """So many that most are seen by their signs only."""
    items = many(8000, width, 4, 0, clustered)
    index = VectorIndex(width)
    for start in range(0, len(items), 1700):  # grows
        index.put(rows_of(items[start : start + 1700]))
    rng = np.random.default_rng(1)
    for weights in (
        Weights(1.0, 0.5, 0.2, 0.2),
        Weights(0.0, 1.0, age_from="accessed"),
        Weights(0.2, 0.0, 1.0),
    ):
        for user, only in ((None, EVERYTHING), (3, Restriction(modality=1)), (None, Restriction(9))):
            query = items[rng.integers(len(items))].vector.astype(np.float32) + 0.05 * rng.normal(size=width)
            query = (query / np.linalg.norm(query)).astype(np.float32)
            check(index, items, query, user, 10, weights, 29 * DAY, only)


@pytest.mark.parametrize(("count", "users"), [(9000, 1), (2000, 50)])
def test_recall_at_the_real_width(count: int, users: int) -> None:
    """Of topics as narrow as an encoder's; the signs alone would find less."""
    items = many(count, 1024, users, 2, clustered=True)
    vectors = np.stack([item.vector for item in items]).astype(np.float32)
    index, ids = VectorIndex(1024), np.array([item.id for item in items])
    index.put(rows_of(items))
    rng, found = np.random.default_rng(3), 0
    for _ in range(30):
        query = vectors[rng.integers(count)] + 0.02 * rng.normal(size=1024).astype(np.float32)
        query /= np.linalg.norm(query)
        best = ids[np.argsort(-(vectors @ query))[:10]]
        own = index.search(query, None, 10, Weights(), 30 * DAY, reader(items)).ids
        found += len(np.intersect1d(own, best))
    assert found >= 297  # 0.99


def test_more_wanted_than_are_looked_at_closely() -> None:
    items = many(7000, 64, 2, 4, clustered=True)
    index, query = VectorIndex(64), items[0].vector.astype(np.float32)
    index.put(rows_of(items))
    for k in (6000, 10000):
        check(index, items, query, None, k, Weights(1.0, 0.5, 0.2, 0.2), 30 * DAY, EVERYTHING)


def test_what_is_removed_makes_room() -> None:
    """A user whose records come and go takes no more memory than one who keeps as many."""
    index, items = VectorIndex(64), many(3000, 64, 3, 5, clustered=False)
    index.put(rows_of(items))
    before = index.nbytes()
    for _ in range(30):
        index.remove(np.array([item.id for item in items], np.int64))
        items = [replace(item, id=item.id + 1000) for item in items]
        for start in range(0, len(items), 400):
            index.put(rows_of(items[start : start + 400]))
    assert len(index) == len(items)
    assert index.nbytes() < 4 * before
    check(index, items, items[5].vector.astype(np.float32), None, 7, Weights(), 30 * DAY, EVERYTHING)


@pytest.mark.parametrize("count", [4, 9000])
def test_equal_scores_by_id(count: int) -> None:
    vector = np.full(64, 1 / 8, np.float16)
    index, rng = VectorIndex(64), np.random.default_rng(0)
    items = [Item((1 + i % 2 << USER_BITS) + 1 + i // 2, vector) for i in range(count)]
    rng.shuffle(items)
    for start in range(0, count, 1 + count // 4):
        index.put(rows_of(items[start : start + 1 + count // 4]))
    found = index.search(vector.astype(np.float32), None, 3, Weights(1.0, 0.3), 0.0, reader(items))
    assert found.ids.tolist() == sorted(item.id for item in items)[:3]


def test_what_was_put_may_be_changed_by_the_caller() -> None:
    index, item = VectorIndex(WIDTH), Item(5, np.eye(WIDTH, dtype=np.float16)[0])
    rows = rows_of([item])
    index.put(rows)
    rows.vectors[:] = 0
    rows.created[:] = 9.0
    found = index.search(np.eye(WIDTH, dtype=np.float32)[0], 0, 1, Weights(recency=1.0), 0.0, reader([item]))
    assert found.scores.tolist() == [2.0]


def test_nothing_loaded() -> None:
    index = VectorIndex(WIDTH)
    for user in (None, 7):
        found = index.search(np.ones(WIDTH, np.float32), user, 5, Weights(), 0.0, reader([]))
        assert (found.ids.shape, found.scores.shape, found.terms.shape) == ((0,), (0,), (0, 4))


def test_threads_that_write_and_search_at_once() -> None:
    index, items = VectorIndex(64), many(3000, 64, 3, 6, clustered=True)
    query, read = items[0].vector.astype(np.float32), reader(items)

    def work(part: int) -> None:
        own = items[part::4]
        for start in range(0, len(own), 50):
            index.put(rows_of(own[start : start + 50]))
            found = index.search(query, None, 10, Weights(), 30 * DAY, read)
            assert len(found.ids) == 10
            assert (np.diff(found.scores) <= 0).all()
        index.remove(np.array([item.id for item in own[:100]], np.int64))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    kept = [item for part in range(4) for item in items[part::4][100:]]
    check(index, kept, query, None, 20, Weights(1.0, 0.5, 0.2, 0.2), 30 * DAY, EVERYTHING)
