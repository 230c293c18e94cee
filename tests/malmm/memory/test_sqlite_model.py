"""The SQLite store against a dictionary: any sequence of calls, by two that have the file open at once."""

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from malmm.memory.checks import unit_vector
from malmm.memory.merging import Part, plan_merges
from malmm.memory.record import Draft, Filters, Query, Weights
from malmm.memory.scoring import cosines, score_terms
from malmm.memory.sqlite import SQLiteStore
from tests.malmm.memory.sqlite_consistency import check_consistency

WIDTH = 4
NOW = 1000.0
WEIGHTS = Weights(relevance=1.0, recency=0.5, frequency=0.4, saliency=0.3, half_life=300.0)
WORDS = st.sampled_from(["red", "blue", "cup", "ball", "the"])
DRAFTS = st.builds(
    Draft,
    user=st.sampled_from(["ann", "bob"]),
    text=st.lists(WORDS, max_size=4).map(" ".join),
    embedding=st.integers(0, 2**31).map(lambda seed: np.random.default_rng(seed).normal(size=WIDTH)),
    modality=st.sampled_from(["text", "vision"]),
    role=st.sampled_from(["user", "assistant"]),
    conversation=st.sampled_from(["", "monday"]),
    turn=st.none() | st.integers(0, 10),
    created=st.integers(0, 2000).map(float),
    saliency=st.floats(0, 1),
    pinned=st.booleans(),
)


@dataclass
class Plain:
    """A record as the dictionary has it."""

    user: str
    text: str
    embedding: np.ndarray
    modality: str
    role: str
    conversation: str
    turn: int | None
    created: float
    accessed: float
    saliency: float
    pinned: bool
    access_count: int = 0
    size: int = 1
    merged: list[int] = field(default_factory=list)


class StoreAndDictionary(RuleBasedStateMachine):
    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.stores = [self.open(), self.open()]
        self.plain: dict[int, Plain] = {}

    def open(self) -> SQLiteStore:
        return SQLiteStore(self.folder / "m.db", WIDTH, {"name": "test"})

    def own(self, user: str) -> dict[int, Plain]:
        return {id: one for id, one in self.plain.items() if one.user == user}

    @rule(target=ids, drafts=st.lists(DRAFTS, max_size=4), who=st.integers(0, 1))
    def add(self, drafts: list[Draft], who: int):
        ids = self.stores[who].add(drafts)
        for id, one in zip(ids, drafts, strict=True):
            assert id not in self.plain
            embedding = unit_vector(one.embedding, WIDTH).astype(np.float16).astype(np.float32)
            self.plain[id] = Plain(
                one.user, one.text, embedding, one.modality, one.role, one.conversation, one.turn,
                one.created, one.created, one.saliency, one.pinned,
            )  # fmt: skip
        return multiple(*ids)

    @rule(some=st.lists(ids, max_size=3), user=st.sampled_from(["ann", "bob"]), who=st.integers(0, 1))
    def touch(self, some: list[int], user: str, who: int):
        self.stores[who].touch(user, some, 1500.0)
        for id in self.own(user).keys() & set(some):
            self.plain[id].access_count += 1
            self.plain[id].accessed = 1500.0

    @rule(
        id=ids,
        user=st.sampled_from(["ann", "bob"]),
        text=st.none() | WORDS,
        saliency=st.none() | st.floats(0, 1),
        pinned=st.none() | st.booleans(),
        who=st.integers(0, 1),
    )
    def update(self, id: int, user: str, who: int, **changes: object):
        assert self.stores[who].update(user, id, **changes) == (id in self.own(user))
        for name, value in changes.items():
            if value is not None and id in self.own(user):
                setattr(self.plain[id], name, value)

    @rule(some=st.lists(ids, max_size=4), user=st.sampled_from(["ann", "bob"]), who=st.integers(0, 1))
    def delete(self, some: list[int], user: str, who: int):
        gone = self.own(user).keys() & set(some)
        assert self.stores[who].delete(user, some) == len(gone)
        for id in gone:
            del self.plain[id]

    @rule(user=st.sampled_from(["ann", "bob"]), budget=st.integers(0, 6), who=st.integers(0, 1))
    def merge(self, user: str, budget: int, who: int):
        own = self.own(user)
        order = sorted((one.created, id, one) for id, one in own.items() if not one.pinned)
        parts = [
            Part(id, one.modality, one.embedding, one.access_count, one.saliency, one.size)
            for _, id, one in order
        ]
        merges = plan_merges(parts, max(0, len(own) - budget))
        assert self.stores[who].merge(user, budget) == sum(len(merge.absorbed) for merge in merges)
        for merge in merges:
            result, shown, one = merge.result, own[merge.shown], self.plain[merge.result.id]
            merged = [m for id in (result.id, *merge.absorbed) for m in own[id].merged or [id]]
            for name in ("text", "role", "conversation", "turn", "created", "accessed"):
                setattr(one, name, getattr(shown, name))
            for name in ("embedding", "access_count", "saliency", "size"):
                setattr(one, name, getattr(result, name))
            one.merged = merged
            for id in merge.absorbed:
                del self.plain[id]

    @rule(who=st.integers(0, 1))
    def open_anew(self, who: int):
        self.stores[who].close()
        self.stores[who] = self.open()

    @rule(
        seed=st.integers(0, 100),
        user=st.sampled_from(["ann", "bob", None]),
        filters=st.sampled_from(
            [Filters(), Filters(modality="text"), Filters(exclude_conversation="monday")]
        ),
        who=st.integers(0, 1),
    )
    def search(self, seed: int, user: str | None, filters: Filters, who: int):
        vector = unit_vector(np.random.default_rng(seed).normal(size=WIDTH), WIDTH)
        wanted: list[tuple[float, int]] = []
        for name in ("ann", "bob") if user is None else (user,):
            seen = [
                (id, one)
                for id, one in self.own(name).items()
                if one.created <= NOW
                and filters.modality in (None, one.modality)
                and filters.exclude_conversation != one.conversation
            ]
            if seen:
                column = {
                    key: np.array([getattr(one, key) for _, one in seen])
                    for key in Plain.__annotations__
                    if key != "merged"
                }
                saliency = np.where(column["pinned"], 1.0, column["saliency"])
                scores, _ = score_terms(
                    cosines(column["embedding"], vector), column["created"], column["accessed"],
                    column["access_count"], saliency, NOW, WEIGHTS, int(column["access_count"].max()),
                )  # fmt: skip
                wanted += [(-score, id) for (id, _), score in zip(seen, scores, strict=True)]
        found = self.stores[who].search(Query(vector, user, NOW, 5, WEIGHTS, filters))
        expected = sorted(wanted)[:5]
        np.testing.assert_allclose([-match.score for match in found], [s for s, _ in expected], atol=1e-6)
        assert {match.record.id for match in found} <= {id for _, id in wanted}

    @rule(word=WORDS, user=st.sampled_from(["ann", "bob"]), who=st.integers(0, 1))
    def search_text(self, word: str, user: str, who: int):
        found = {id for id, _ in self.stores[who].search_text(user, word, k=1000)}
        assert found == {id for id, one in self.own(user).items() if word in one.text.split()}

    @invariant()
    def both_have_the_same_records(self):
        for store in self.stores:
            assert store.users() == sorted({one.user for one in self.plain.values()})
            for user in ("ann", "bob"):
                own = self.own(user)
                records = store.records(user, limit=1000, newest_first=False)
                assert [record.id for record in records] == sorted(own, key=lambda id: (own[id].created, id))
                assert store.count(user) == len(own)
                for record in records:
                    one = own[record.id]
                    np.testing.assert_array_equal(record.embedding, one.embedding)
                    for name in Plain.__annotations__:
                        if name not in ("embedding", "merged"):
                            assert getattr(record, name) == getattr(one, name), name

    def teardown(self):
        for id, one in self.plain.items():
            assert {record.id for record in self.stores[0].merged(one.user, id)} == set(one.merged)
        for store in self.stores:
            store.close()
        check_consistency(self.folder / "m.db")
        shutil.rmtree(self.folder)


TestStoreAndDictionary = StoreAndDictionary.TestCase
TestStoreAndDictionary.settings = settings(max_examples=20, stateful_step_count=15)
