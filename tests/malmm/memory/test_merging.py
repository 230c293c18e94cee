"""Which records are merged: the rule against a plain reading of it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from malmm.memory.merging import Part, plan_merges


def parts_of(seed: int, modalities: list[str], sizes: list[int]) -> list[Part]:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(len(modalities), 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    return [
        Part(at + 1, modality, vectors[at], at % 3, at / 100, sizes[at % len(sizes)])
        for at, modality in enumerate(modalities)
    ]


def merge_plainly(parts: list[Part], excess: int) -> list[tuple[int, list[int], int, int, float, np.ndarray]]:
    """Every time all pairs of neighbours of one modality are compared anew."""
    rows = [([part.id], part.id, part) for part in parts]
    for _ in range(excess):
        pairs = []
        for at, (_, _, first) in enumerate(rows):
            later = [n for n in range(at + 1, len(rows)) if rows[n][2].modality == first.modality]
            if later:
                pairs.append((float(np.dot(first.embedding, rows[later[0]][2].embedding)), -at, later[0]))
        if not pairs:
            break
        _, at, newer_at = max(pairs)
        (ids, shown, first), (newer_ids, newer_shown, second) = rows[-at], rows[newer_at]
        mean = first.size * first.embedding.astype(float) + second.size * second.embedding
        mean = (mean / np.linalg.norm(mean)).astype(np.float16).astype(np.float32)
        merged = Part(
            first.id, first.modality, mean, first.access_count + second.access_count,
            max(first.saliency, second.saliency), first.size + second.size,
        )  # fmt: skip
        rows[-at] = (ids + newer_ids, shown if first.size > second.size else newer_shown, merged)
        del rows[newer_at]
    return [
        (shown, ids, part.size, part.access_count, part.saliency, part.embedding)
        for ids, shown, part in rows
        if len(ids) > 1
    ]


@given(
    seed=st.integers(0, 2**31),
    modalities=st.lists(st.sampled_from(["text", "vision"]), max_size=14),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    excess=st.integers(0, 16),
)
def test_merging_follows_the_rule(seed: int, modalities: list[str], sizes: list[int], excess: int):
    parts = parts_of(seed, modalities, sizes)
    merges = {merge.result.id: merge for merge in plan_merges(parts, excess)}
    wanted = merge_plainly(parts, excess)
    assert len(merges) == len(wanted)
    for shown, ids, size, count, saliency, embedding in wanted:
        merge = merges[ids[0]]
        assert (merge.shown, [merge.result.id, *merge.absorbed]) == (shown, ids)
        result = merge.result
        assert (result.size, result.access_count, result.saliency) == (size, count, saliency)
        np.testing.assert_array_equal(result.embedding, embedding)


def test_equal_and_opposite_embeddings_keep_the_newer_one():
    up = np.eye(4, dtype=np.float32)[0]
    (merge,) = plan_merges([Part(1, "text", up, 0, 0.0, 1), Part(2, "text", -up, 0, 0.0, 1)], 1)
    np.testing.assert_array_equal(merge.result.embedding, -up)


def test_ten_thousand_records_are_merged_in_one_go():
    parts = parts_of(0, ["text"] * 10_000, [1])
    merges = plan_merges(parts, 9_000)
    assert sum(len(merge.absorbed) for merge in merges) == 9_000
    assert sum(merge.result.size for merge in merges) + (1000 - len(merges)) == 10_000
