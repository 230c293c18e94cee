"""Periods of time in English questions: `yesterday`, `two weeks ago`, `in March`, `on 5 May 2023`.

Only the past is read: memories have no future. `python-dateutil` reads dates but none of these words, and
`dateparser` takes many plain words for dates ("may", "sat", "second"), hence this table.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo

_MINUTE, _HOUR = 60.0, 3600.0
_DAYS = {"day": 1, "week": 7, "month": 30, "year": 365}  # of a unit
_COUNTS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "couple of": 2, "a couple of": 2, "few": 3, "a few": 3,
    "several": 4,
}  # fmt: skip
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
    "november", "december",
)  # fmt: skip
_SINCE = re.compile(r"\bsince\s+$", re.IGNORECASE)
_PARTS = {"morning": (4, 12), "afternoon": (12, 18), "evening": (17, 28), "night": (18, 30)}  # hours of a day
Window = tuple[float, float]  # seconds since the epoch, [after, before)


@dataclass(frozen=True)
class Period:
    """A period and the words that name it, in small letters."""

    name: str
    window: Window


def find_period(question: str, now: float, zone: tzinfo | None = None) -> Period | None:
    """The period that `question`, asked at `now` (seconds since the epoch), names; None where it names none.

    zone: whose days and hours are meant; None: this machine's. `since` before a period lets it reach to now.
    """
    clock = _Clock(now, zone)
    for pattern, read in _EXPRESSIONS:
        for match in pattern.finditer(question):
            window = read({name: value or "" for name, value in match.groupdict().items()}, clock)
            if window is None or window[0] >= now:
                continue
            since = _SINCE.search(question[: match.start()])
            words = question[since.start() if since else match.start() : match.end()]
            name = " ".join(words.lower().split())
            return Period(name, (window[0], clock.end) if name.startswith("since ") else window)
    return None


class _Clock:
    """The days and hours of a zone, counted from now."""

    def __init__(self, now: float, zone: tzinfo | None) -> None:
        self.now, self.zone = now, zone
        self.end = now + 1.0  # of a window that reaches to now
        self.today = datetime.fromtimestamp(now, zone).date()

    def at(self, day: date, hour: int = 0) -> float:
        """Seconds since the epoch of a day's hour; from 24 on it is one of the next day."""
        moment = datetime.combine(day + timedelta(days=hour // 24), time(hour % 24), self.zone)
        return moment.timestamp()  # without a zone: this machine's, with its summer time

    def days(self, first: date, last: date) -> Window:
        """The whole days from `first` to `last`."""
        return self.at(first), self.at(last + timedelta(days=1))

    def back(self, most: int, least: int) -> Window | None:
        """The whole days from `most` to `least` days ago; None before the calendar begins."""
        if most >= self.today.toordinal():
            return None
        return self.days(self.today - timedelta(days=most), self.today - timedelta(days=least))

    def part(self, day: date, name: str) -> Window:
        """A part of a day (`morning`), or without a name all of it."""
        if not name:
            return self.days(day, day)
        first, last = _PARTS[name.lower()]
        return self.at(day, first), self.at(day, last)

    def month(self, year: int, month: int) -> Window:
        """A calendar month; `month` may be below 1 or above 12."""
        first, after = (date(year + (m - 1) // 12, (m - 1) % 12 + 1, 1) for m in (month, month + 1))
        return self.at(first), self.at(after)


def _count(words: str) -> int:
    words = " ".join(words.lower().split())
    return int(words) if words.isdigit() else _COUNTS[words]


def _ago(words: dict[str, str], clock: _Clock) -> Window | None:
    """Half a unit, or a quarter of the time, more or less: people round."""
    count, unit = _count(words["count"]), words["unit"].lower()
    if unit in ("minute", "hour"):
        centre = count * (_MINUTE if unit == "minute" else _HOUR)
        slack = max(centre / 2, 10 * _MINUTE)
        return clock.now - centre - slack, min(clock.now - centre + slack, clock.end)
    days = count * _DAYS[unit]
    vague = re.search("few|couple|several", words["count"], re.IGNORECASE) is not None
    wide = max(_DAYS[unit] // 2, days // 4, int(vague))
    return clock.back(days + wide, days - wide)


def _past(words: dict[str, str], clock: _Clock) -> Window | None:
    """`in the last three days`: up to now."""
    count, unit = _count(words["count"] or "one"), words["unit"].lower()
    if unit in ("minute", "hour"):
        return clock.now - count * (_MINUTE if unit == "minute" else _HOUR), clock.end
    window = clock.back(count * _DAYS[unit], 0)
    return window and (window[0], clock.end)


def _day(words: dict[str, str], clock: _Clock) -> Window:
    """`the day before yesterday`, `yesterday evening`, `this morning`, `last night`, `today`."""
    name = words["day"].lower()
    back = 2 if name.startswith("the") else 1 if name in ("yesterday", "last") else 0
    part = "evening" if name == "tonight" else words["part"]
    return clock.part(clock.today - timedelta(days=back), part)


def _unit(words: dict[str, str], clock: _Clock) -> Window:
    """`last week`, `this month`: of the calendar, weeks from Monday."""
    back, today = int(words["which"].lower() != "this"), clock.today
    monday = today - timedelta(days=today.weekday() + 7 * back)
    unit = words["unit"].lower()
    if unit == "week":
        return clock.days(monday, monday + timedelta(days=6))
    if unit == "weekend":  # the last one is the one that is over
        days = (today.weekday() - 5) % 7
        saturday = today - timedelta(days=days + 7 if back and days < 2 else days)
        return clock.days(saturday, saturday + timedelta(days=1))
    if unit == "month":
        return clock.month(today.year, today.month - back)
    return clock.days(date(today.year - back, 1, 1), date(today.year - back, 12, 31))


def _weekday(words: dict[str, str], clock: _Clock) -> Window:
    """The last such day before today."""
    back = (clock.today.weekday() - _WEEKDAYS.index(words["weekday"].lower())) % 7 or 7
    return clock.part(clock.today - timedelta(days=back), words["part"])


def _month(words: dict[str, str], clock: _Clock) -> Window:
    """`in March`: this year's or the last one that has begun; `last March`: that is over."""
    month, today = _MONTHS.index(words["month"].lower()) + 1, clock.today
    begun = month < today.month or (month == today.month and words["which"].lower() != "last")
    return clock.month(int(words["year"]) if words["year"] else today.year - (not begun), month)


def _date(words: dict[str, str], clock: _Clock) -> Window | None:
    """A day of the calendar; without a year the last one that has begun."""
    month = words["month"].lower()
    number = int(month) if month.isdigit() else _MONTHS.index(month) + 1
    try:
        if words["year"]:
            day = date(int(words["year"]), number, int(words["day"]))
        else:
            day = date(clock.today.year, number, int(words["day"]))
            day = day if day <= clock.today else day.replace(year=day.year - 1)
    except ValueError:  # no such day
        return None
    return clock.days(day, day)


def _year(words: dict[str, str], clock: _Clock) -> Window:
    year = int(words["year"])
    return clock.days(date(year, 1, 1), date(year, 12, 31))


_NUMBER = rf"(?P<count>\d{{1,4}}|{'|'.join(sorted(_COUNTS, key=len, reverse=True))})".replace(" ", r"\s+")
_NAMES = "|".join(_MONTHS)
_PART = r"(?P<part>morning|afternoon|evening|night)"
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_NTH = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"

# The first that a question has counts; "may" and "march" are months only beside a preposition, day or year.
_EXPRESSIONS: tuple[tuple[re.Pattern[str], Callable[[dict[str, str], _Clock], Window | None]], ...] = tuple(
    (re.compile(rf"\b(?:{words})\b", re.IGNORECASE), read)
    for words, read in (
        (rf"{_YEAR}-(?P<month>\d\d)-(?P<day>\d\d)", _date),
        (rf"(?P<month>{_NAMES})\s+(?:the\s+)?{_NTH}(?:,?\s+{_YEAR})?", _date),
        (rf"{_NTH}\s+(?:of\s+)?(?P<month>{_NAMES})(?:,?\s+{_YEAR})?", _date),
        (rf"(?:about\s+|around\s+)?{_NUMBER}\s+(?P<unit>minute|hour|day|week|month|year)s?\s+ago", _ago),
        (rf"(?:in|within|over|during|for)\s+the\s+(?:last|past)\s+(?:{_NUMBER}\s+)?"
         r"(?P<unit>minute|hour|day|week|month|year)s?", _past),
        (rf"(?P<day>the day before yesterday|yesterday)(?:\s+{_PART})?", _day),
        (rf"(?P<day>this|last)\s+{_PART}", _day),
        (r"(?P<day>today|tonight)(?P<part>)", _day),
        (r"(?P<which>this|last|past|previous)\s+(?P<unit>week|weekend|month|year)", _unit),
        (rf"(?:on|last|this|since|past)\s+(?P<weekday>{'|'.join(_WEEKDAYS)})(?:\s+{_PART})?", _weekday),
        (rf"(?:in|during|of|since|back in)\s+(?:early\s+|late\s+|mid-?)?(?P<which>)(?P<month>{_NAMES})"
         rf"(?:,?\s+{_YEAR})?", _month),
        (rf"(?P<which>last|this|past)\s+(?P<month>{_NAMES})(?P<year>)", _month),
        (rf"(?P<month>{_NAMES})\s+{_YEAR}(?P<which>)", _month),
        (rf"(?:in|during|since)\s+{_YEAR}", _year),
    )
)  # fmt: skip
