"""A model and a split of its data set, ready to be evaluated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from malmm.evaluate.journal import Journal
from malmm.evaluate.report import Report


@dataclass(frozen=True)
class Ready:
    """A model and a split that belong together.

    data: what the answers depend on beside the model; ask: a journal -> the report; write: its further files.
    """

    data: Any
    ask: Callable[[Journal], Report]
    write: Callable[[Report], None] = lambda report: None


def is_first(accelerator: Accelerator | None) -> bool:
    """Whether this process prints and writes."""
    return accelerator is None or accelerator.is_main_process
