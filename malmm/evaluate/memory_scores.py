"""Scores of what was found and answered, in percent.

evidence recall at k    the share of a question's evidence that is among the first k items found, averaged
                        over the questions that have evidence; a picture and its caption are one item
exact match             answers equal to the right one, both normalised, of the questions that have one
remembered              of the questions that have an answer, those for which anything was found
false remembered        the same of the questions whose answer was never given
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from malmm.evaluate.text import NORMALISER, Score, normalise

DEPTHS = (1, 5, 10)
SAMPLES = 2000
DISTANCES: dict[str, Callable[[int], bool]] = {
    "1": lambda n: n == 1,
    "2-3": lambda n: 2 <= n <= 3,
    "4+": lambda n: n >= 4,
}
RECALL = "share of the evidence among the first {} items|mean over questions with evidence|online"
MATCH = f"equal strings|norm:{NORMALISER}|questions with an answer"


@dataclass(frozen=True)
class MemoryPrediction:
    """A question to one row; found: ids of the items, best first. prediction: None where nobody answers."""

    row: str
    user: str
    question_id: str
    kind: str
    conversations: int
    question: str
    answer: str | None
    evidence: tuple[str, ...]
    found: tuple[str, ...]
    prediction: str | None = None

    def recall(self, depth: int) -> float:
        """The share of the evidence among the first `depth` items."""
        found = set(self.found[:depth])
        return sum(item in found for item in self.evidence) / len(self.evidence)

    @property
    def right(self) -> bool:
        """Whether the answer is right."""
        return self.answer is not None and normalise(self.prediction or "") == normalise(self.answer)


def score_row(predictions: Sequence[MemoryPrediction], depths: Sequence[int] = DEPTHS) -> list[Score]:
    """Every score of one row: in all, by kind of question and by distance."""
    scores = _scores("", predictions, depths)
    for kind in dict.fromkeys(p.kind for p in predictions):
        scores += _scores(f"_{kind}", [p for p in predictions if p.kind == kind], depths)
    for name, told in (("_shown", False), ("_heard", True)):
        scores += _scores(name, [p for p in predictions if p.kind.startswith("told") == told], depths)
    for name, within in DISTANCES.items():
        far = [p for p in predictions if p.evidence and within(p.conversations)]
        scores += _scores(f"_distance_{name}", far, depths)
    answerable = [p for p in predictions if p.answer is not None]
    never = [p for p in predictions if p.answer is None and not p.evidence]
    for name, asked in (("remembered", answerable), ("false_remembered", never)):
        if asked:
            value = 100 * sum(bool(p.found) for p in asked) / len(asked)
            scores.append(Score(name, value, f"anything found|n:{len(asked)}"))
    return scores


def _scores(suffix: str, predictions: Sequence[MemoryPrediction], depths: Sequence[int]) -> list[Score]:
    scores: list[Score] = []
    with_evidence = [p for p in predictions if p.evidence]
    for depth in depths:
        if with_evidence:
            value = 100 * sum(p.recall(depth) for p in with_evidence) / len(with_evidence)
            signature = f"{RECALL.format(depth)}|n:{len(with_evidence)}"
            scores.append(Score(f"recall_{depth}{suffix}", value, signature))
    answered = [p for p in predictions if p.answer is not None and p.prediction is not None]
    if answered:
        value = 100 * sum(p.right for p in answered) / len(answered)
        scores.append(Score(f"exact_match{suffix}", value, f"{MATCH}|n:{len(answered)}"))
    return scores


def interval(values: Mapping[str, Sequence[float]], seed: int = 0) -> tuple[float, float]:
    """The middle 95 % of the mean, in percent, when whole users are drawn again; values: of each user."""
    sums = np.array([sum(own) for own in values.values()])
    counts = np.array([len(own) for own in values.values()])
    drawn = np.random.default_rng(seed).integers(len(sums), size=(SAMPLES, len(sums)))
    means = 100 * sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
