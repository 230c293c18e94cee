"""Reciprocal rank fusion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmm.memory.hybrid import fuse

IDS = st.lists(st.integers(0, 20), unique=True)


def test_scores_by_hand() -> None:
    fused = fuse({"embedding": [7, 8], "text": [8, 9]}, {"embedding": 1.0, "text": 0.5}, 60)
    assert [item.id for item in fused] == [8, 7, 9]
    assert fused[0].score == pytest.approx(1 / 62 + 0.5 / 61)
    assert fused[0].ranks == {"embedding": 2, "text": 1}
    assert fused[2].ranks == {"text": 2}


@given(IDS)
def test_one_ranking_keeps_its_order(ids: list[int]) -> None:
    assert [item.id for item in fuse({"a": ids}, {"a": 1.0})] == ids


@given(IDS, IDS)
def test_a_ranking_of_no_weight_plays_no_part(one: list[int], other: list[int]) -> None:
    assert fuse({"a": one, "b": other}, {"a": 1.0, "b": 0.0}) == fuse({"a": one}, {"a": 1.0})


@given(IDS, IDS)
def test_everything_comes_once(one: list[int], other: list[int]) -> None:
    fused = fuse({"a": one, "b": other}, {"a": 1.0, "b": 1.0})
    assert sorted(item.id for item in fused) == sorted(set(one) | set(other))
    scores = [item.score for item in fused]
    assert scores == sorted(scores, reverse=True)
