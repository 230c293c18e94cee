"""The score against its formula, by hand, and the range of its terms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmm.memory.record import Weights
from malmm.memory.scoring import cosines, score_terms

DAY = 86400.0


def one(cosine: float = 0.0, **changes: float) -> tuple[float, list[float]]:
    """Score and terms of one record, created three days and accessed one day before `now`."""
    given = {"created": 7 * DAY, "accessed": 9 * DAY, "counts": 0, "saliency": 0.0, "most": 7} | changes
    weights = Weights(1.0, 0.5, 0.25, 2.0, half_life=3 * DAY, age_from=given.get("age_from", "created"))
    score, terms = score_terms(
        np.array([cosine]), np.array([given["created"]]), np.array([given["accessed"]]),
        np.array([given["counts"]]), np.array([given["saliency"]], np.float32), 10 * DAY, weights,
        int(given["most"]),
    )  # fmt: skip
    return score.item(), terms[0].tolist()


def test_the_formula() -> None:
    score, terms = one(0.6, counts=1, saliency=0.5)
    assert terms == pytest.approx([0.6, 0.5, 1 / 3, 0.5])  # log 2 / log 8
    assert score == pytest.approx(0.6 + 0.25 + 0.25 / 3 + 1.0)


@pytest.mark.parametrize(
    ("changes", "term", "value"),
    [
        ({"cosine": -0.4}, 0, 0.0),  # opposed is no more than unrelated
        ({"cosine": 1.0000001}, 0, 1.0),  # rounding
        ({"age_from": "accessed"}, 1, 2 ** (-1 / 3)),
        ({"age_from": "accessed", "accessed": 11 * DAY}, 1, 1.0),  # recalled after the moment asked about
        ({"counts": 7}, 2, 1.0),
        ({"counts": 0, "most": 0}, 2, 0.0),  # nothing was ever recalled
        ({"saliency": 1.0}, 3, 1.0),
    ],
)
def test_a_term(changes: dict[str, float], term: int, value: float) -> None:
    assert one(**changes)[1][term] == pytest.approx(value)


@given(
    st.floats(-1.1, 1.1), st.floats(0, 4e9), st.floats(0, 4e9), st.floats(1, 1e9),
    st.integers(0, 10**9), st.integers(0, 10**9),
)  # fmt: skip
def test_terms_lie_between_0_and_1(
    cosine: float, created: float, now: float, half_life: float, count: int, more: int
) -> None:
    stamp = np.array([created])
    score, terms = score_terms(
        np.array([cosine]), stamp, stamp, np.array([count]), np.array([0.5]), now,
        Weights(1, 1, 1, 1, half_life), count + more,
    )  # fmt: skip
    assert np.all((terms >= 0) & (terms <= 1))
    assert score.item() == pytest.approx(terms.sum())


@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_equal_rows_have_equal_cosines(width: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    row, query = rng.normal(size=(2, width)).astype(np.float32)
    vectors = rng.normal(size=(count, width)).astype(np.float16)
    vectors[::2] = row
    products = cosines(vectors, query)
    assert len(set(products[::2])) == 1
    np.testing.assert_allclose(products, vectors.astype(np.float64) @ query, atol=1e-9)
