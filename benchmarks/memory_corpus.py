"""Records made up for benchmarks of the long-term memory: users who come back to their topics.

An embedding is what all of its modality share, its topic and something of its own, as those of ImageBind and
CLIP are: they fill a narrow cone for each modality (Liang et al. 2022, "Mind the Gap"), and their variance
falls off over the dimensions. The topics are mixtures of 200 themes, a user's own, visited by Zipf's law.
`iid` is the hard case that no encoder makes: every direction alike, all as far from a query as can be.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from malmm.memory.record import Draft, Modality, Vector

WIDTH = 1024
NOW = 1.8e9
SPAN = 90 * 86400.0  # seconds before NOW in which everything was created
THEMES, OWN_THEMES, TOPICS = 200, 20, 60  # of all, of a user, and a user's topics
SHARED, TOPIC, OWN = 0.55, 0.55, 0.63  # lengths of what an embedding is made of
VISION = 0.3  # share of pictures
TURNS = 20  # of one conversation
WORDS, LENGTH = 5000, 12  # in the language, and of a text
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Corpus:
    """`size` records of `users` users, the same for the same numbers."""

    size: int
    users: int
    iid: bool = False

    @property
    def names(self) -> list[str]:
        """Of the users."""
        return [f"user{number:03}" for number in range(self.users)]

    def drafts(self, user: int) -> list[Draft]:
        """A user's records, oldest first."""
        rng = np.random.default_rng((1, user))
        count = len(range(user, self.size, self.users))
        pictures = rng.random(count) < VISION
        embeddings = self._noise(rng, count) if self.iid else self._embeddings(rng, pictures)
        created = np.sort(NOW - SPAN * rng.random(count))
        words = rng.integers(WORDS, size=(count, LENGTH))
        modality: list[Modality] = ["vision" if picture else "text" for picture in pictures]
        return [
            Draft(
                user=self.names[user],
                text=" ".join(f"word{word}" for word in words[row]),
                embedding=embeddings[row],
                modality=modality[row],
                conversation=f"{user}.{row // TURNS}",
                turn=row % TURNS,
                created=float(created[row]),
                saliency=float(rng.random()),
            )
            for row in range(count)
        ]

    def touches(self, user: int, ids: list[int]) -> Iterator[list[int]]:
        """Ids to count one more access of, again and again: counts fall off geometrically."""
        rng = np.random.default_rng((2, user))
        counts = rng.geometric(0.4, len(ids)) - 1
        for times in range(int(counts.max(initial=0))):
            yield [id for id, count in zip(ids, counts, strict=True) if count > times]

    def query(self, embedding: Vector, seed: int) -> Vector:
        """A unit vector about a stored record, from another angle: their cosine is about 0.75."""
        [noise] = self._noise(np.random.default_rng((3, seed)), 1)
        [query] = _unit(0.75 * embedding[None] + 0.66 * noise)
        return query

    def _embeddings(self, rng: np.random.Generator, pictures: NDArray[np.bool_]) -> Vectors:
        shared = np.random.default_rng(0)
        cones, themes = self._noise(shared, 2), self._noise(shared, THEMES)
        own = themes[rng.choice(THEMES, OWN_THEMES, replace=False)]
        topics = _unit(0.8 * own[rng.integers(OWN_THEMES, size=TOPICS)] + 0.6 * self._noise(rng, TOPICS))
        visits = 1 / np.arange(1, TOPICS + 1) ** 1.5
        visited = rng.choice(TOPICS, len(pictures), p=visits / visits.sum())
        own_part = self._noise(rng, len(pictures))
        return _unit(SHARED * cones[pictures.astype(int)] + TOPIC * topics[visited] + OWN * own_part)

    def _noise(self, rng: np.random.Generator, count: int) -> Vectors:
        """Unit vectors [count, C] in random directions."""
        noise = rng.standard_normal((count, WIDTH), dtype=np.float32)
        return _unit(noise if self.iid else noise * np.arange(1, WIDTH + 1, dtype=np.float32) ** -0.4)


def _unit(vectors: Vectors) -> Vectors:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
