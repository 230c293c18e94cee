"""Which words of an English question say what it is about.

BM25 over a few dozen short texts gives "the", "is" and "does" weight, for many texts lack them. Words of time
or order ("now", "before", "again") and "no" and "not" count as content.
"""

import re

_FUNCTION_WORDS = """
a an the and or but if nor so as than then that this these those there here i me my mine myself you your
yours yourself he him his himself she her hers herself it its itself we us our ours ourselves they them
their theirs themselves who whom whose what which when where why how is am are was were be been being do
does did done doing has have had having can could will would shall should may might must of in on at by
for with from to into onto about between through during above below up down out off over under further
"""
_PATTERN = re.compile(
    rf"\w+n['’]t\b|['’](?:s|d|m|re|ll|ve)\b|\b(?:{'|'.join(_FUNCTION_WORDS.split())})\b", re.IGNORECASE
)
_WORD = re.compile(r"\w+")


def content(text: str) -> str:
    """A text without function words; one that has no other words stays as it is."""
    kept = _PATTERN.sub(" ", text)
    return kept if _WORD.search(kept) else text


def shared(question: str, text: str) -> float:
    """The share of the question's content words, each counted once, that a text has; 0 where it has none."""
    asked = set(_WORD.findall(content(question).lower()))
    return len(asked & set(_WORD.findall(text.lower()))) / len(asked) if asked else 0.0
