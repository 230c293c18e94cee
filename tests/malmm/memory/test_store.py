"""What holds for every store of the long-term memory."""

import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from malmm.errors import InputError
from malmm.memory.record import Draft, Filters, Media, Query, Record, Weights
from malmm.memory.scoring import cosines, score_terms
from malmm.memory.store import MemoryStore

OpenMemory = Callable[..., MemoryStore]  # the fixture `open_memory`

DAY = 86400.0
NOW = 1_000 * DAY
ALL_TERMS = Weights(relevance=1.0, recency=0.5, frequency=0.4, saliency=0.3, half_life=20 * DAY)


def unit(*values: float) -> np.ndarray:
    """A vector 8 wide of unit length that begins so."""
    vector = np.zeros(8, np.float32)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


def draft(
    text: str = "a cup", user: str = "ann", embedding: np.ndarray | None = None, **rest: object
) -> Draft:
    return Draft(user, text, unit(1) if embedding is None else embedding, **rest)


def fill(memory: MemoryStore, seed: int = 0, count: int = 60) -> list[int]:
    """Records of three users with everything mixed, some of them recalled -> ids."""
    random = np.random.default_rng(seed)
    drafts = [
        Draft(
            user=str(random.choice(["ann", "bob", "cy"])),
            text=" ".join(random.choice(["red", "blue", "cup", "ball", "left", "of"], 4)),
            embedding=random.normal(size=8),
            modality=random.choice(["text", "vision", "audio"]),
            role=random.choice(["user", "assistant"]),
            conversation=random.choice(["", "monday", "friday"]),
            turn=int(random.integers(5)),
            created=NOW - DAY * float(random.integers(100)),
            saliency=float(random.random()),
            pinned=bool(random.random() < 0.2),
        )
        for _ in range(count)
    ]
    ids = memory.add(drafts)
    for _ in range(4):
        for user in ("ann", "bob", "cy"):
            own = [id for id, one in zip(ids, drafts, strict=True) if one.user == user]
            memory.touch(user, random.choice(own, 8).tolist(), NOW - DAY * float(random.random()))
    return ids


def everything(memory: MemoryStore, user: str | None) -> list[Record]:
    users = memory.users() if user is None else [user]
    return [record for name in users for record in memory.records(name, limit=10_000)]


def passes(record: Record, filters: Filters) -> bool:
    return (
        filters.conversation in (None, record.conversation)
        and (filters.exclude_conversation is None or record.conversation != filters.exclude_conversation)
        and filters.modality in (None, record.modality)
        and filters.role in (None, record.role)
        and filters.pinned in (None, record.pinned)
        and (filters.after is None or record.created >= filters.after)
        and (filters.before is None or record.created < filters.before)
    )


def reference(memory: MemoryStore, query: Query) -> dict[int, tuple[float, np.ndarray]]:
    """Score and terms of all records that the query may see, one user after the other."""
    scored = {}
    for user in memory.users() if query.user is None else [query.user]:
        seen = [
            record
            for record in everything(memory, user)
            if record.created <= query.now and passes(record, query.filters)
        ]
        if not seen:
            continue
        scores, terms = score_terms(
            cosines(np.stack([r.embedding for r in seen]), query.embedding / np.linalg.norm(query.embedding)),
            np.array([r.created for r in seen]),
            np.array([r.accessed for r in seen]),
            np.array([r.access_count for r in seen]),
            np.array([1.0 if r.pinned else r.saliency for r in seen]),
            query.now,
            query.weights,
            max(r.access_count for r in seen),
        )
        scored |= {r.id: (s, t) for r, s, t in zip(seen, scores, terms, strict=True)}
    return scored


def check_search(memory: MemoryStore, query: Query) -> None:
    """The matches are the best of the reference, in its order, with its scores and terms."""
    wanted = reference(memory, query)
    found = memory.search(query)
    best = sorted((score for score, _ in wanted.values()), reverse=True)[: query.k]
    assert [match.score for match in found] == pytest.approx(best, abs=1e-5)
    assert len({match.record.id for match in found}) == len(found)
    for match in found:
        score, terms = wanted[match.record.id]
        assert match.score == pytest.approx(score, abs=1e-5)
        assert dataclasses.astuple(match.terms) == pytest.approx(terms, abs=1e-5)


# --- adding and reading ---


def test_what_was_added_is_read_back_also_by_who_opens_the_store_later(open_memory: OpenMemory):
    embedding = np.arange(1, 9, dtype=np.float32)
    given = Draft(
        "ann", "a red cup \N{HOT BEVERAGE}", embedding, "vision", "assistant", "monday", 3,
        Media("/pictures/cup.png", "ab" * 32), created=12.25, saliency=0.375, pinned=True,
    )  # fmt: skip
    with open_memory() as memory:
        (id,) = memory.add([given])
    (record,) = open_memory().get("ann", [id])
    assert record.embedding.dtype == np.float32
    np.testing.assert_allclose(record.embedding, embedding / np.linalg.norm(embedding), atol=5e-4)
    for field in ("user", "text", "modality", "role", "conversation", "turn", "media", "saliency", "pinned"):
        assert getattr(record, field) == getattr(given, field)
    assert (record.created, record.accessed, record.access_count, record.size) == (12.25, 12.25, 0, 1)


def test_a_record_without_a_time_was_created_when_it_was_added(memory: MemoryStore):
    before = time.time()
    (id,) = memory.add([draft()])
    assert before <= memory.get("ann", [id])[0].created <= time.time()


def test_ids_are_in_order_and_of_their_user(memory: MemoryStore):
    ids = memory.add([draft(user=user) for user in ("ann", "bob", "ann", "bob")])
    assert len(set(ids)) == 4
    assert ids[0] >> 32 == ids[2] >> 32 != ids[1] >> 32 == ids[3] >> 32
    assert ids[2] > ids[0] and ids[3] > ids[1]
    assert [record.user for record in memory.get("bob", ids)] == ["bob", "bob"]


def test_ids_are_never_given_twice(memory: MemoryStore):
    (first,) = memory.add([draft()])
    assert memory.delete("ann", [first]) == 1
    assert memory.add([draft()]) != [first]


def test_get_keeps_the_order_of_ids_and_passes_over_unknown_ones(memory: MemoryStore):
    ids = memory.add([draft(str(n)) for n in range(5)])
    wanted = [ids[3], 12345, ids[0], ids[4]]
    assert [record.text for record in memory.get("ann", wanted)] == ["3", "0", "4"]


def test_add_of_nothing_adds_nothing(memory: MemoryStore):
    assert memory.add([]) == []
    assert memory.users() == [] and memory.count() == 0


@pytest.mark.parametrize(
    "embedding",
    [np.ones(7), np.ones((1, 8)), np.zeros(8), np.full(8, np.nan), np.array([np.inf, *range(7)])],
    ids=["narrow", "two-dimensional", "zero", "nan", "infinite"],
)
def test_an_embedding_that_does_not_fit_is_refused_and_nothing_of_its_call_is_kept(
    memory: MemoryStore, embedding: np.ndarray
):
    with pytest.raises(InputError, match="embedding"):
        memory.add([draft(), draft(embedding=embedding)])
    assert memory.count() == 0


@pytest.mark.parametrize("wrong", [{"role": "system"}, {"saliency": 1.5}, {"created": float("nan")}])
def test_a_draft_that_no_store_keeps_is_refused(memory: MemoryStore, wrong: dict[str, object]):
    with pytest.raises(InputError):
        memory.add([draft(**wrong)])
    assert memory.count() == 0


@pytest.mark.parametrize(
    "text", ["", 'it\'s "quoted" -- 100 %', "ж \N{GRINNING FACE} \u4f60\u597d", "a\nb\tc", "x" * 100_000]
)
def test_any_text_is_kept_as_it_is(memory: MemoryStore, text: str):
    (id,) = memory.add([draft(text, conversation=text[:50])])
    (record,) = memory.get("ann", [id])
    assert (record.text, record.conversation) == (text, text[:50])


def test_a_file_name_that_is_no_unicode_can_be_remembered(memory: MemoryStore):
    (id,) = memory.add([draft("p\udcff", media=Media("/x/p\udcff.png", "ab" * 32))])
    (record,) = memory.get("ann", [id])
    assert (record.text, record.media.path) == ("p\\udcff", "/x/p\\udcff.png")


def test_another_encoder_or_width_is_refused_and_the_store_stays_as_it_is(open_memory: OpenMemory):
    encoder = {"name": "imagebind", "weights_sha256": "a1", "config": {"width": 8}}
    with open_memory(encoder=encoder) as memory:
        memory.add([draft()])
    with pytest.raises(InputError, match=r"width 8.* 16 wide"):
        open_memory(width=16, encoder=encoder)
    with pytest.raises(InputError, match=r"weights_sha256 is a1 there and b2 here"):
        open_memory(encoder=encoder | {"weights_sha256": "b2"})
    assert open_memory(encoder=encoder).count("ann") == 1


# --- lists ---


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize(
    "filters",
    [
        Filters(),
        Filters(conversation="monday"),
        Filters(conversation=""),
        Filters(conversation="never"),
        Filters(exclude_conversation="monday"),
        Filters(exclude_conversation="never"),
        Filters(modality="vision", role="assistant"),
        Filters(pinned=True),
        Filters(pinned=False, after=NOW - 60 * DAY, before=NOW - 20 * DAY),
    ],
    ids=str,
)
def test_records_are_listed_by_time_and_filtered(memory: MemoryStore, filters: Filters, newest_first: bool):
    ids = fill(memory)
    wanted = [record for record in memory.get("ann", ids) if passes(record, filters)]
    wanted.sort(key=lambda record: (record.created, record.id), reverse=newest_first)
    listed = memory.records("ann", filters, newest_first=newest_first)
    assert [record.id for record in listed] == [record.id for record in wanted]
    page = memory.records("ann", filters, limit=3, offset=2, newest_first=newest_first)
    assert [record.id for record in page] == [record.id for record in wanted[2:5]]


def test_counts_and_users(memory: MemoryStore):
    memory.add([draft(user=user) for user in ("cy", "ann", "cy")])
    assert memory.users() == ["ann", "cy"]
    assert [memory.count(), memory.count("cy"), memory.count("ann"), memory.count("bob")] == [3, 2, 1, 0]


# --- search ---


@pytest.mark.parametrize("user", ["ann", "cy", None])
@pytest.mark.parametrize(
    "weights",
    [
        Weights(),
        ALL_TERMS,
        dataclasses.replace(ALL_TERMS, age_from="accessed"),
        Weights(relevance=0.0, recency=1.0),
        Weights(relevance=0.0, frequency=1.0),
        Weights(relevance=0.0, saliency=1.0),
    ],
    ids=["cosine", "all", "accessed", "recency", "frequency", "saliency"],
)
def test_search_finds_the_best_of_the_combined_score(memory: MemoryStore, user: str | None, weights: Weights):
    fill(memory)
    random = np.random.default_rng(1)
    for k in (1, 7, 100):
        check_search(memory, Query(random.normal(size=8).astype(np.float32), user, NOW, k, weights))


@pytest.mark.parametrize(
    "filters",
    [
        Filters(conversation="friday"),
        Filters(conversation="never"),
        Filters(exclude_conversation="friday"),
        Filters(exclude_conversation="never"),
        Filters(modality="audio"),
        Filters(role="user", pinned=False),
        Filters(after=NOW - 50 * DAY),
        Filters(before=NOW - 50 * DAY, conversation=""),
    ],
    ids=str,
)
@pytest.mark.parametrize("user", ["bob", None])
def test_search_sees_only_what_the_filters_let_through(
    memory: MemoryStore, filters: Filters, user: str | None
):
    fill(memory)
    check_search(memory, Query(unit(1, 2, 3), user, NOW, 10, ALL_TERMS, filters))


def test_search_as_of_an_earlier_moment_sees_nothing_later(memory: MemoryStore):
    fill(memory)
    for days in (0, 30, 99, 200):
        query = Query(unit(1, -1), "ann", NOW - days * DAY, 10, ALL_TERMS)
        check_search(memory, query)
        assert all(match.record.created <= query.now for match in memory.search(query))


def test_equal_scores_come_by_id(memory: MemoryStore):
    ids = memory.add([draft(str(n), created=5.0) for n in range(6)])
    found = memory.search(Query(unit(1), "ann", NOW, 4))
    assert [match.record.id for match in found] == ids[:4]


def test_an_unknown_user_and_no_results_wanted_find_nothing(memory: MemoryStore):
    memory.add([draft(created=1.0)])
    assert list(memory.search(Query(unit(1), "bob", NOW))) == []
    assert list(memory.search(Query(unit(1), "ann", NOW, k=0))) == []


@pytest.mark.parametrize("embedding", [np.ones(7), np.zeros(8)])
def test_a_query_that_does_not_fit_is_refused(memory: MemoryStore, embedding: np.ndarray):
    memory.add([draft()])
    with pytest.raises(InputError, match="embedding"):
        memory.search(Query(embedding, "ann", NOW))


def test_search_follows_every_change(memory: MemoryStore):
    ids = fill(memory)
    query = Query(unit(1, 1, 1), "ann", NOW + DAY, 100, ALL_TERMS)
    own = [record.id for record in memory.get("ann", ids)]
    check_search(memory, query)
    memory.add([draft(embedding=unit(1, 1, 1), created=NOW)])
    check_search(memory, query)
    memory.touch("ann", own[:5], NOW)
    check_search(memory, query)
    memory.update("ann", own[0], pinned=True, saliency=0.25)
    check_search(memory, query)
    memory.delete("ann", own[1:4])
    check_search(memory, query)
    memory.merge("ann", 8)
    check_search(memory, query)
    assert len(memory.search(query)) == memory.count("ann")


def test_what_one_store_changes_another_that_is_open_finds(open_memory: OpenMemory):
    here, there = open_memory(), open_memory()
    ids = fill(here)
    query = Query(unit(0, 1), "bob", NOW + DAY, 100, ALL_TERMS)
    own = [record.id for record in here.get("bob", ids)]
    changes = [
        lambda: here.touch("bob", own[:3], NOW),
        lambda: here.add([draft(user="bob", embedding=unit(0, 1), created=NOW)]),
        lambda: here.update("bob", own[2], text="green", pinned=True),
        lambda: here.delete("bob", own[3:6]),
        lambda: here.merge("bob", 10),
        lambda: here.delete("bob", [record.id for record in everything(here, "bob")]),
        lambda: here.add([draft(user="bob", created=NOW)]),
    ]
    for change in changes:
        there.search(query)
        change()
        check_search(there, query)
        assert len(there.search(query)) == here.count("bob")
        check_search(there, dataclasses.replace(query, user=None))


# --- scores of given records ---


def test_score_gives_the_same_as_search(memory: MemoryStore):
    fill(memory)
    for user in ("ann", None):
        query = Query(unit(1, 2), user, NOW, 100, ALL_TERMS, Filters(exclude_conversation="monday"))
        found = memory.search(query)
        ids = [match.record.id for match in found][::-1]
        scored = memory.score(query, ids)
        assert [match.record.id for match in scored] == ids
        for one, other in zip(scored, reversed(found), strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-5)
            assert dataclasses.astuple(one.terms) == pytest.approx(dataclasses.astuple(other.terms), abs=1e-5)


def test_score_passes_over_what_the_query_may_not_see(memory: MemoryStore):
    ids = memory.add(
        [
            draft("mine", created=1.0),
            draft("later", created=9.0),
            draft("elsewhere", created=1.0, conversation="friday"),
            draft("another's", user="bob", created=1.0),
        ]
    )
    query = Query(unit(1), "ann", 5.0, filters=Filters(conversation=""))
    assert [match.record.text for match in memory.score(query, [*ids, 77])] == ["mine"]
    assert list(memory.score(query, [])) == []


# --- words ---


def test_text_search_finds_shared_words_and_the_rarer_word_weighs_more(memory: MemoryStore):
    ids = memory.add([draft(text) for text in ("the red cup", "the red ball", "the red box", "a green tree")])
    found = memory.search_text("ann", "RED Ball?")
    assert found[0][0] == ids[1]
    assert {id for id, _ in found} == set(ids[:3])
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[1]
    assert [id for id, _ in memory.search_text("ann", "red ball", k=1)] == [ids[1]]


def test_text_search_is_the_users_own_and_filtered(memory: MemoryStore):
    memory.add([draft("red cup", user="bob")])
    ids = memory.add([draft("red cup"), draft("red cup", conversation="monday", role="assistant")])
    assert {id for id, _ in memory.search_text("ann", "cup")} == set(ids)
    for filters in (
        Filters(conversation="monday"),
        Filters(role="assistant"),
        Filters(exclude_conversation=""),
    ):
        assert [id for id, _ in memory.search_text("ann", "cup", filters=filters)] == [ids[1]]
    assert list(memory.search_text("cy", "cup")) == []


@pytest.mark.parametrize("text", ["", "   ", "?!", "-- ''", '"', "*", "()", "\N{GRINNING FACE}"])
def test_a_text_without_words_finds_nothing(memory: MemoryStore, text: str):
    memory.add([draft('red cup ? ! " * ( )')])
    assert list(memory.search_text("ann", text)) == []


@pytest.mark.parametrize(
    "text",
    [
        'cup" OR "ball', "NOT cup", "cup AND", "text: cup", "cup*", "^cup", "NEAR(cup, 2)", "-cup", "{cup}",
        "cup & ball | !x", "cup:*", "cup -- ; DROP TABLE records", "cup\0", "it's a cup", "cup <-> ball",
        "%cup_", "cup\\", "'cup'",
    ],
)  # fmt: skip
def test_nothing_in_a_question_is_syntax(memory: MemoryStore, text: str):
    ids = memory.add([draft("a cup"), draft("unrelated words")])
    assert [id for id, _ in memory.search_text("ann", text)] == ids[:1]


def test_a_question_of_thousands_of_words_is_answered(memory: MemoryStore):
    (id,) = memory.add([draft("needle in it")])
    text = " ".join(f"word{n}" for n in range(5000)) + " needle"
    assert [found for found, _ in memory.search_text("ann", text)] == [id]


def test_text_search_follows_updates_and_deletions(memory: MemoryStore):
    first, second = memory.add([draft("red cup"), draft("red ball")])
    memory.update("ann", first, text="green tree")
    assert [id for id, _ in memory.search_text("ann", "red")] == [second]
    assert [id for id, _ in memory.search_text("ann", "tree")] == [first]
    memory.delete("ann", [second])
    assert list(memory.search_text("ann", "red ball")) == []


# --- counters, updates, deletion ---


def test_touch_counts_each_record_once_and_notes_the_time(memory: MemoryStore):
    ids = memory.add([draft(user=user, created=1.0) for user in ("ann", "ann", "bob")])
    memory.touch("ann", [ids[0], ids[0], ids[2], 99], now=7.0)
    memory.touch("ann", [ids[0]], now=8.0)
    counters = [
        (record.access_count, record.accessed) for user in ("ann", "bob") for record in memory.get(user, ids)
    ]
    assert counters == [(2, 8.0), (0, 1.0), (0, 1.0)]


def test_update_changes_what_is_given(memory: MemoryStore):
    (id,) = memory.add([draft("red", saliency=0.5)])
    (before,) = memory.get("ann", [id])
    assert memory.update("ann", id, pinned=True)
    assert memory.update("ann", id, saliency=0.0)
    assert memory.update("ann", id, text="")
    (after,) = memory.get("ann", [id])
    assert (after.text, after.saliency, after.pinned) == ("", 0.0, True)
    assert (after.created, after.conversation, after.size) == (before.created, "", 1)
    assert not memory.update("bob", id, text="mine") and not memory.update("ann", 99, pinned=True)
    with pytest.raises(InputError, match="saliency"):
        memory.update("ann", id, saliency=2.0)


def test_delete_takes_the_users_records_and_no_others(memory: MemoryStore):
    ids = memory.add([draft(str(n), user=user) for n, user in enumerate(("ann", "ann", "bob"))])
    assert memory.delete("ann", [ids[0], ids[2], 99]) == 1
    assert [record.text for user in ("ann", "bob") for record in memory.get(user, ids)] == ["1", "2"]
    assert memory.delete("ann", [ids[0]]) == 0
    assert memory.delete("ann", [ids[1]]) == 1
    assert memory.users() == ["bob"]


# --- merging ---


def test_the_most_alike_neighbours_become_one(memory: MemoryStore):
    ids = memory.add(
        [
            draft("zero", embedding=unit(1, 0), created=1.0, saliency=0.1),
            draft("one", embedding=unit(0, 1), created=2.0, saliency=0.9),
            draft("two", embedding=unit(0.2, 1), created=3.0, conversation="friday", turn=4, saliency=0.2),
            draft("three", embedding=unit(1, 0.01), created=4.0),  # like `zero`, but no neighbour of it
        ]
    )
    memory.touch("ann", [ids[1], ids[2]], 50.0)
    memory.touch("ann", [ids[1]], 60.0)
    before = memory.get("ann", ids)
    assert memory.merge("ann", 3) == 1
    assert [record.id for record in memory.get("ann", ids)] == [ids[0], ids[1], ids[3]]
    (one,) = memory.get("ann", [ids[1]])
    mean = before[1].embedding + before[2].embedding
    np.testing.assert_allclose(one.embedding, mean / np.linalg.norm(mean), atol=5e-4)
    assert (one.text, one.conversation, one.turn) == ("two", "friday", 4)  # of equal size: the newer
    assert (one.created, one.accessed, one.access_count) == (3.0, 50.0, 3)
    assert (one.saliency, one.size) == (0.9, 2)
    assert_same_records(memory.merged("ann", ids[1]), before[1:3])
    assert list(memory.merged("ann", ids[0])) == []
    assert memory.merge("ann", 3) == 0
    assert list(memory.search_text("ann", "one")) == []
    assert [id for id, _ in memory.search_text("ann", "two")] == [ids[1]]


def assert_same_records(some: object, others: object) -> None:
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one.embedding, other.embedding)
        assert dataclasses.replace(one, embedding=None) == dataclasses.replace(other, embedding=None)


def test_the_larger_of_two_gives_text_and_time_and_weighs_more(memory: MemoryStore):
    ids = memory.add([draft(str(n), embedding=unit(1, n / 10), created=float(n)) for n in range(3)])
    memory.merge("ann", 2)
    (pair, single) = memory.records("ann", newest_first=False)
    assert (pair.size, single.size) in [(2, 1), (1, 2)]
    larger = max(pair, single, key=lambda record: record.size)
    assert memory.merge("ann", 1) == 1
    (record,) = memory.records("ann")
    assert (record.id, record.size) == (ids[0], 3)
    assert (record.text, record.created) == (larger.text, larger.created)
    mean = pair.size * pair.embedding + single.size * single.embedding
    np.testing.assert_allclose(record.embedding, mean / np.linalg.norm(mean), atol=1e-3)
    assert [one.text for one in memory.merged("ann", ids[0])] == ["0", "1", "2"]
    assert [one.id for one in memory.merged("ann", ids[0])] == ids


def test_pinned_records_and_other_modalities_are_not_merged(memory: MemoryStore):
    memory.add(
        [
            draft("pinned", created=1.0, pinned=True),
            draft("text", created=2.0),
            draft("picture", created=3.0, modality="vision"),
            draft("text again", created=4.0),
            draft("pinned too", created=5.0, pinned=True),
        ]
    )
    assert memory.merge("ann", 1) == 1  # the two texts, though a picture lies between them in time
    texts = [record.text for record in memory.records("ann", newest_first=False)]
    assert texts == ["pinned", "picture", "text again", "pinned too"]


def test_merging_at_once_and_one_by_one_end_the_same(open_memory: OpenMemory):
    at_once, one_by_one = open_memory(name="a"), open_memory(name="b")
    random = np.random.default_rng(3)
    drafts = [
        draft(
            str(n),
            embedding=random.normal(size=8),
            created=float(n),
            modality=random.choice(["text", "vision"]),
        )
        for n in range(30)
    ]
    at_once.add(drafts)
    one_by_one.add(drafts)
    assert at_once.merge("ann", 5) == 25
    for budget in range(29, 4, -1):
        assert one_by_one.merge("ann", budget) == 1
    ended = [everything(memory, "ann") for memory in (at_once, one_by_one)]
    assert_same_records(*ended)
    for record in ended[0]:
        assert_same_records(at_once.merged("ann", record.id), one_by_one.merged("ann", record.id))
        assert len(at_once.merged("ann", record.id)) == (record.size if record.size > 1 else 0)


def test_deleting_a_merged_record_deletes_what_was_merged_into_it(memory: MemoryStore):
    ids = memory.add([draft(str(n), created=float(n)) for n in range(4)])
    memory.merge("ann", 1)
    assert list(memory.merged("bob", ids[0])) == []
    assert memory.delete("ann", [ids[0]]) == 1
    assert list(memory.merged("ann", ids[0])) == [] and memory.count() == 0


# --- media ---


def picture(folder: Path, content: bytes = b"a picture", name: str = "cup.png") -> Media:
    path = folder / name
    path.write_bytes(content)
    return Media(str(path), hashlib.sha256(content).hexdigest(), copied=True)


def test_copied_media_outlives_its_file_and_goes_with_its_last_record(memory: MemoryStore, tmp_path: Path):
    media = picture(tmp_path)
    first, second, third = memory.add(
        [draft(media=media, created=1.0), draft(media=media, created=2.0), draft(user="bob", media=media)]
    )
    Path(media.path).unlink()
    assert memory.get("ann", [first])[0].media == media
    assert memory.media_file(media).read_bytes() == b"a picture"
    assert memory.media_file(media).suffix == ".png"
    memory.merge("ann", 1)
    memory.delete("bob", [third])
    assert memory.media_file(media).read_bytes() == b"a picture"  # two records merged into one need it
    memory.delete("ann", [first, second])
    assert memory.media_file(media) is None


def test_media_that_is_not_copied_is_found_where_it_lay(memory: MemoryStore, tmp_path: Path):
    media = dataclasses.replace(picture(tmp_path), copied=False)
    memory.add([draft(media=media)])
    assert memory.media_file(media) == Path(media.path)
    Path(media.path).unlink()
    assert memory.media_file(media) is None


def test_media_that_is_gone_or_has_changed_is_refused_and_nothing_kept(memory: MemoryStore, tmp_path: Path):
    media = picture(tmp_path)
    Path(media.path).write_bytes(b"another")
    with pytest.raises(InputError, match=r"cup\.png"):
        memory.add([draft(media=media)])
    Path(media.path).unlink()
    with pytest.raises(InputError, match=r"cup\.png"):
        memory.add([draft(media=media)])
    assert memory.count() == 0


# --- threads ---


def test_threads_share_a_store(memory: MemoryStore):
    (shared_id,) = memory.add([draft(user="all", created=1.0)])
    failures: list[BaseException] = []

    def work(user: str) -> None:
        try:
            for n in range(10):
                (id,) = memory.add([draft(f"{user} {n}", user=user, created=1.0)])
                memory.touch("all", [shared_id])
                assert id in [match.record.id for match in memory.search(Query(unit(1), user, NOW, 50))]
                assert id in [found for found, _ in memory.search_text(user, str(n), 50)]
                if n % 3 == 2:
                    memory.delete(user, [id])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"user{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert memory.count() == 4 * 7 + 1
    assert memory.get("all", [shared_id])[0].access_count == 40
