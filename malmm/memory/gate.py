"""What a question's words say about time: how much recency counts, and which period is asked for."""

from dataclasses import dataclass, replace
from datetime import datetime, tzinfo

from malmm.memory.record import Filters, Weights


@dataclass(frozen=True)
class Gate:
    """What a question asks about time. None of recency and half_life: the configuration's stay."""

    name: str = "none"
    """The words that said so, such as `last week`."""
    recency: float | None = None
    half_life: float | None = None  # seconds
    window: tuple[float, float] | None = None
    """Seconds since the epoch, [after, before)."""
    oldest_first: bool = False

    def weights(self, weights: Weights) -> Weights:
        """The weights of a search: the higher weight of recency, the gate's half-life."""
        if self.recency is None:
            return weights
        return replace(
            weights,
            recency=max(weights.recency, self.recency),
            half_life=self.half_life or weights.half_life,
            age_from="created",
        )

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


def read_gate(question: str, now: datetime) -> Gate:
    """What `question` asks about time; `now` is the asker's local time, with its zone."""
    return NO_GATE
