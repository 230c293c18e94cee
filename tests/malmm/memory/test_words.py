"""Content words of English questions."""

import pytest

from malmm.memory.words import content, shared


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Where is the key of Anna?", "key Anna?"),
        ("what's in Tom's box, and isn't it red", "Tom box, red"),
        ("where was it before, and where is it now", "before, now"),
        ("isthmus theory thermal", "isthmus theory thermal"),
        ("Wo ist der Schl\u00fcssel", "Wo ist der Schl\u00fcssel"),
    ],
)
def test_function_words_are_dropped(text: str, kept: str) -> None:
    assert content(text).split() == kept.split()


@pytest.mark.parametrize("text", ["who is it", "The Who", "don't!", "", "?!"])
def test_a_text_of_function_words_alone_stays(text: str) -> None:
    assert content(text) == text


def test_the_share_of_content_words() -> None:
    assert shared("Where is the red key?", "a KEY") == 0.5
    assert shared("key, key and key", "the key") == 1
    assert shared("who are you", "who knows you") == pytest.approx(2 / 3)
    assert shared("?", "anything") == 0
