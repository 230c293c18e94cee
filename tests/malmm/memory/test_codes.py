"""Codes and signs against the vectors that they stand for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmm.memory.codes import Coder, code_cosines, cosines_by_differing, differing_signs


def unit(rng: np.random.Generator, count: int, width: int, uneven: bool = False) -> np.ndarray:
    vectors = rng.normal(size=(count, width))
    if uneven:  # one dimension outweighs all others, as CLIP has them
        vectors[:, 0] += 5 * np.sqrt(width)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 30), st.integers(0, 2**32 - 1), st.booleans())
def test_cosines_of_codes(width: int, count: int, seed: int, uneven: bool) -> None:
    vectors = unit(np.random.default_rng(seed), count + 1, width, uneven)
    coder = Coder(width)
    stored, query = coder.encode(vectors[1:]), coder.encode(vectors[:1])
    rows = np.arange(count)[::-1]
    found = code_cosines(stored.codes, stored.scale, rows, query)
    np.testing.assert_allclose(found, (vectors[1:] @ vectors[0])[rows], atol=0.02)


@pytest.mark.parametrize("uneven", [False, True])
def test_errors_at_the_real_width(uneven: bool) -> None:
    vectors = unit(np.random.default_rng(0), 2001, 1024, uneven)
    coder = Coder(1024)
    stored, query = coder.encode(vectors[1:]), coder.encode(vectors[:1])
    cosines = vectors[1:] @ vectors[0]
    by_codes = code_cosines(stored.codes, stored.scale, np.arange(2000), query)
    assert np.std(by_codes - cosines) < 0.0006
    by_signs = cosines_by_differing(len(stored.signs))[differing_signs(stored.signs, query.signs)]
    assert np.std(by_signs - cosines) < 0.05
    assert abs(np.mean(by_signs - cosines)) < 0.02


@given(st.integers(1, 130), st.integers(0, 2**32 - 1))
def test_equal_vectors_have_equal_codes_wherever_they_stand(width: int, seed: int) -> None:
    vectors = unit(np.random.default_rng(seed), 40, width).astype(np.float16)
    vectors[::3] = vectors[1]
    stored = Coder(width).encode(vectors)
    query = Coder(width).encode(vectors[2:3])
    assert len(np.unique(code_cosines(stored.codes, stored.scale, np.arange(0, 40, 3), query))) == 1
    assert len(np.unique(differing_signs(stored.signs, query.signs)[::3])) == 1
    assert differing_signs(stored.signs, query.signs)[2] == 0


def test_a_vector_without_length() -> None:
    stored = Coder(16).encode(np.zeros((1, 16), np.float32))
    assert not stored.codes.any()
    assert np.isfinite(stored.scale).all()
