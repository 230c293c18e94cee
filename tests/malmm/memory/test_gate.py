"""What a question's words say about time, by the clock of the one who asks."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmm.memory.gate import Gate, read_gate
from malmm.memory.periods import find_period
from malmm.memory.record import Filters, Weights

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


NOW = at("2026-11-22 10:00")  # a Sunday


@pytest.mark.parametrize(
    ("question", "name", "after", "before"),
    [
        ("What did we see today?", "today", "2026-11-22", "2026-11-23"),
        ("and yesterday", "yesterday", "2026-11-21", "2026-11-22"),
        ("the picture of yesterday evening", "yesterday evening", "2026-11-21 17:00", "2026-11-22 04:00"),
        ("the day before yesterday", "the day before yesterday", "2026-11-20", "2026-11-21"),
        ("What did I say this morning?", "this morning", "2026-11-22 04:00", "2026-11-22 12:00"),
        ("Last  NIGHT?", "last night", "2026-11-21 18:00", "2026-11-22 06:00"),
        ("Who called last week?", "last week", "2026-11-09", "2026-11-16"),
        ("this week", "this week", "2026-11-16", "2026-11-23"),
        ("last weekend", "last weekend", "2026-11-14", "2026-11-16"),
        ("last month", "last month", "2026-10-01", "2026-11-01"),
        ("last year", "last year", "2025-01-01", "2026-01-01"),
        ("two weeks ago", "two weeks ago", "2026-11-05", "2026-11-12"),
        ("a week ago", "a week ago", "2026-11-12", "2026-11-19"),
        ("3 days ago", "3 days ago", "2026-11-19", "2026-11-20"),
        ("a few days ago", "a few days ago", "2026-11-18", "2026-11-21"),
        ("three hours ago", "three hours ago", "2026-11-22 05:30", "2026-11-22 08:30"),
        ("in the last three days", "in the last three days", "2026-11-19", "2026-11-22 10:00:01"),
        ("since Monday", "since monday", "2026-11-16", "2026-11-22 10:00:01"),
        ("on Friday night", "on friday night", "2026-11-20 18:00", "2026-11-21 06:00"),
        ("last Sunday", "last sunday", "2026-11-15", "2026-11-16"),
        ("What was it in March?", "in march", "2026-03-01", "2026-04-01"),
        ("in December", "in december", "2025-12-01", "2026-01-01"),
        ("last November", "last november", "2025-11-01", "2025-12-01"),
        ("in March 2024", "in march 2024", "2024-03-01", "2024-04-01"),
        ("on 5 May", "5 may", "2026-05-05", "2026-05-06"),
        ("on December 24th", "december 24th", "2025-12-24", "2025-12-25"),
        ("7 May, 2023", "7 may, 2023", "2023-05-07", "2023-05-08"),
        ("on 2024-02-29", "2024-02-29", "2024-02-29", "2024-03-01"),
        ("in 2024", "in 2024", "2024-01-01", "2025-01-01"),
    ],
)
def test_periods(question: str, name: str, after: str, before: str) -> None:
    gate = read_gate(question, NOW, BERLIN)
    assert gate == Gate(name=name, window=(at(after), at(before)))


@pytest.mark.parametrize(
    "question",
    [
        "What color is the circle?",
        "May I march to the second floor?",
        "Is the last one red?",
        "It is the 31st of the list of 2024 things",
        "What will we do tomorrow or next week?",
        "2023-02-30",
        "9999 years ago",
        "on 3 December 2026",
        "",
    ],
)
def test_no_time_is_asked_for(question: str) -> None:
    assert read_gate(question, NOW, BERLIN) == Gate()


@pytest.mark.parametrize(
    ("question", "name", "order"),
    [
        ("What did I show you just now?", "just now", "newest"),
        ("What have I just said?", "just said", "newest"),
        ("What did I tell you the last time?", "last time", "newest"),
        ("What is my latest plan?", "latest", "newest"),
        ("What have I been reading lately?", "lately", None),
        ("Where do I live now?", "now", None),
    ],
)
def test_recency(question: str, name: str, order: str | None) -> None:
    gate = read_gate(question, NOW, BERLIN)
    assert (gate.name, gate.order, gate.window) == (name, order, None)
    weights = gate.weights(Weights())
    assert weights.recency > 0 and weights.half_life == gate.half_life
    assert gate.weights(Weights(recency=2.0)).recency == 2.0


def test_the_sooner_the_words_the_shorter_the_half_life() -> None:
    lives = [
        read_gate(words, NOW, BERLIN).half_life or 0
        for words in ("just now", "latest", "lately", "currently")
    ]
    assert lives == sorted(lives) and len(set(lives)) == 4


def test_the_first_of_a_period() -> None:
    gate = read_gate("What was the first picture that I showed you last month?", NOW, BERLIN)
    assert (gate.name, gate.order) == ("first picture, last month", "oldest")
    assert gate.window == (at("2026-10-01"), at("2026-11-01"))
    assert gate.weights(Weights()) == Weights()


def test_days_are_those_of_the_zone() -> None:
    tokyo, angeles = ZoneInfo("Asia/Tokyo"), ZoneInfo("America/Los_Angeles")
    now = at("2026-11-22 20:00", ZoneInfo("UTC"))  # Monday 05:00 in Tokyo, Sunday noon in Los Angeles
    assert read_gate("yesterday", now, tokyo).window == (at("2026-11-22", tokyo), at("2026-11-23", tokyo))
    assert read_gate("yesterday", now, angeles).window == (
        at("2026-11-21", angeles), at("2026-11-22", angeles)
    )  # fmt: skip


def test_a_day_of_summer_times_end_has_25_hours() -> None:
    window = read_gate("yesterday", at("2026-10-26 09:00"), BERLIN).window
    assert window is not None and window[1] - window[0] == 25 * 3600


def test_a_window_narrows_filters_and_never_widens_them() -> None:
    gate = Gate(window=(10.0, 20.0))
    assert gate.narrow(Filters(role="user")) == Filters(role="user", after=10.0, before=20.0)
    assert gate.narrow(Filters(after=15.0, before=30.0)) == Filters(after=15.0, before=20.0)
    assert gate.narrow(Filters(before=10.0)) is None
    assert Gate().narrow(Filters()) is None


@given(
    st.text() | st.from_regex(r"(since |in |on )?[0-9a-z]{1,9} (days|weeks|may|march) ?(ago|[0-9]{1,4})?"),
    st.floats(0, 4e9),
)
def test_any_text_can_be_read_and_every_period_has_begun(question: str, now: float) -> None:
    period = find_period(question, now, BERLIN)
    assert period is None or (period.window[0] < now and period.window[0] < period.window[1])
