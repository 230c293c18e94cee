"""What a question's words say about time: how much recency counts, and which period is asked for.

Recency that is not asked for harms retrieval, so it is added only where a question speaks of it ("just now",
"lately"). A period ("last week", "in March") is a soft window: what lies in it is ranked a second time among
itself, and everything else stays findable, because what happened in March may have been told in April.
"""

import re
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from typing import Literal

from malmm.memory.periods import find_period
from malmm.memory.record import Filters, Weights

_HOUR, _DAY = 3600.0, 86400.0
_SHOWN = "time|thing|picture|photo|image|sound|song|recording|video|film|conversation|question|message|fact"


@dataclass(frozen=True)
class Gate:
    """What a question asks about time. None: as the configuration has it."""

    name: str = "none"
    """The words that said so, such as `last week`."""
    recency: float | None = None
    half_life: float | None = None  # seconds
    window: tuple[float, float] | None = None
    """Seconds since the epoch, [after, before)."""
    order: Literal["newest", "oldest"] | None = None
    """Which of what is found is asked for."""

    def weights(self, weights: Weights) -> Weights:
        """The weights of a search: the higher weight of recency, the gate's half-life."""
        if self.recency is None or self.half_life is None:
            return weights
        recency = max(weights.recency, self.recency)
        return replace(weights, recency=recency, half_life=self.half_life, age_from="created")

    def narrow(self, filters: Filters) -> Filters | None:
        """The filters within the gate's window; None where there is none, or nothing is left of it."""
        if self.window is None:
            return None
        after, before = self.window
        after = after if filters.after is None else max(after, filters.after)
        before = before if filters.before is None else min(before, filters.before)
        return replace(filters, after=after, before=before) if after < before else None


NO_GATE = Gate()


def local_time(seconds: float, zone: tzinfo | None) -> datetime:
    """Seconds since the epoch as the time of a zone, None: this machine's."""
    return datetime.fromtimestamp(seconds, zone) if zone else datetime.fromtimestamp(seconds).astimezone()


# The first that a question has counts. A half-life is about as long as what the words reach back.
_RECENCY = tuple(
    (re.compile(rf"\b(?:{words})\b", re.IGNORECASE), gate)
    for words, gate in (
        (
            r"just now|(?:a|one) (?:moment|minute|second|little while) ago"
            r"|just (?:said|told|showed|shown|asked|mentioned|saw|seen|heard|played|gave)"
            r"|just (?:say|tell|show|ask|mention|see|hear|play|give)",
            Gate(recency=1.0, half_life=_HOUR / 6, order="newest"),
        ),
        (
            rf"(?:very )?first (?:{_SHOWN})|at first|in the beginning|originally|(?:the )?oldest",
            Gate(order="oldest"),
        ),
        (
            rf"latest|newest|most recent(?:ly)?|last (?:{_SHOWN})",
            Gate(recency=0.5, half_life=3 * _DAY, order="newest"),
        ),
        (
            r"recently|lately|recent|these days|nowadays",
            Gate(recency=0.3, half_life=7 * _DAY),
        ),
        (
            r"(?:right )?now|currently|current|at the moment|at present|still|any ?more",
            Gate(recency=0.2, half_life=30 * _DAY),
        ),
    )
)


def read_gate(question: str, now: float, zone: tzinfo | None = None) -> Gate:
    """What `question`, asked at `now` (seconds since the epoch), asks about time, in English words.

    zone: whose days and hours "yesterday" means; None: this machine's. Recency and a period may both be asked
    for ("the last picture of yesterday").
    """
    period = find_period(question, now, zone)
    names, gate = [period.name] if period else [], Gate(window=period.window if period else None)
    for pattern, recency in _RECENCY:
        match = pattern.search(question)
        # What was in a period that is over wants no recency, but it may have a first and a last.
        if match and not (period and recency.order is None):
            names.insert(0, " ".join(match.group().lower().split()))
            gate = replace(recency, window=gate.window)
            break
    return replace(gate, name=", ".join(dict.fromkeys(names)) or "none")
