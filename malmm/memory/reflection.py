"""A second pass: the model reasons over its reminders, names those it used, and answers or says it cannot."""

from typing import Protocol


class Reader(Protocol):
    """A language model that reads a prompt and writes on."""

    def read(self, prompt: str) -> str:
        """What the model writes after `prompt`."""
        ...
