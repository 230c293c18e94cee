"""Unit vectors as eight-bit codes and as signs: what the index holds of them, and what it reads off them.

A vector is turned first by a fixed rotation, so that no dimension stands out: on embeddings as they are,
signs err twice as much. The cosine of two vectors shows in how many signs they differ (Charikar 2002, section
3), to about 0.04 at 1024 signs; the codes show it to about 0.0004.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int8]
Signs = NDArray[np.uint64]
_WORD = 64
_LARGEST = 127
_ROWS = 512  # vectors that are worked on at once: they stay in the processor's cache


class Encoded(NamedTuple):
    """n vectors: codes int8 [n, P] times scale float32 [n], signs [P / 64, n]; P is the width, padded."""

    codes: Codes
    scale: NDArray[np.float32]
    signs: Signs


class Coder:
    """Codes of vectors of one width."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.padded = max(_WORD, 1 << (width - 1).bit_length())
        self.words = self.padded // _WORD
        self._left, self._right = _hadamard_pair(self.padded)
        self._flips = np.random.default_rng(0).choice(np.array([-1.0, 1.0], np.float32), (2, self.padded))

    def encode(self, vectors: NDArray[np.floating]) -> Encoded:
        """[n, C] -> their codes."""
        count = len(vectors)
        codes = np.empty((count, self.padded), np.int8)
        scale = np.empty(count, np.float32)
        signs = np.empty((self.words, count), np.uint64)
        for start in range(0, count, _ROWS):
            some = slice(start, start + _ROWS)
            turned = self._rotate(vectors[some])
            peak = np.maximum(np.abs(turned).max(axis=1), 1e-30)  # of a vector without length too
            scale[some] = peak / _LARGEST
            turned *= (_LARGEST / peak)[:, None]
            np.rint(turned, out=turned)
            codes[some] = turned
            signs[:, some] = np.packbits(codes[some] > 0, axis=1).view(np.uint64).T
        return Encoded(codes, scale, signs)

    def _rotate(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """[n, C] -> [n, P] with lengths and angles kept: twice random signs and a Hadamard matrix."""
        turned = np.zeros((len(vectors), self.padded), np.float32)
        turned[:, : self.width] = vectors
        for flips in self._flips:  # once would leave a vector of one large number with equal ones everywhere
            turned *= flips
            squares = turned.reshape(-1, len(self._left), len(self._right))
            turned = (self._left @ (squares @ self._right)).reshape(turned.shape)
        return turned


def differing_signs(signs: Signs, query: Signs) -> NDArray[np.uint16]:
    """[P / 64, n] and [P / 64, 1] -> in how many of the P signs each vector differs from the query, [n]."""
    total = np.zeros(signs.shape[1], np.uint16)
    for word, wanted in zip(signs, query, strict=True):
        total += np.bitwise_count(word ^ wanted)
    return total


@cache
def cosines_by_differing(words: int) -> NDArray[np.float32]:
    """The cosine to expect of two vectors by the number of signs in which they differ, 0 to all of them."""
    return np.cos(np.linspace(0, np.pi, words * _WORD + 1)).astype(np.float32)


def sign_error(words: int) -> float:
    """Standard deviation of such a cosine where the vectors are at right angles; elsewhere it is less."""
    return np.pi / 2 / np.sqrt(words * _WORD)


def code_cosines(
    codes: Codes, scale: NDArray[np.float32], rows: NDArray[np.intp], query: Encoded
) -> NDArray[np.float64]:
    """Cosines of some rows [m] of the codes with a query's one row -> [m].

    Sums of products of codes are whole numbers below 2^24, so equal codes give equal cosines.
    """
    wanted = query.codes[0].astype(np.float32)
    sums = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _ROWS):
        some = slice(start, start + _ROWS)
        np.vecdot(codes[rows[some]].astype(np.float32), wanted, out=sums[some])  # in one thread
    return sums.astype(np.float64) * scale[rows] * query.scale


@cache
def _hadamard_pair(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Orthogonal matrices of about the root of `size`, a power of two, whose sides multiply to it."""
    bits = size.bit_length() - 1
    return _hadamard(bits // 2), _hadamard(bits - bits // 2)


def _hadamard(bits: int) -> NDArray[np.float32]:
    matrix = np.ones((1, 1), np.float32)
    for _ in range(bits):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (matrix / np.sqrt(len(matrix))).astype(np.float32)
