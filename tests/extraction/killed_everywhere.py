"""Runs `python -m extraction WORD... --out STORES/N` for N = 0, 1, ..., killed at every file that it makes.

    python killed_everywhere.py STORES WORD... --config FILE

Run N is killed when the data of a file are written but its name is not yet given (N even), or was given just
now (N odd), in either case at the file of number N // 2. It ends with the run that nothing killed. Forked and
not started anew, because importing torch takes seconds (some of them when the first model is built); before
anything is computed: torch's threads survive no fork.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

import extraction.item_pipeline
import extraction.pipeline  # noqa: F401
from extraction.__main__ import app
from extraction.encoder import Encoder

counted = 0


def killing(function: Callable[..., Any], last: int) -> Callable[..., Any]:
    """`function`, until it has been called `last // 2` times; the next call kills the process."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        global counted
        result = function(*arguments, **keywords) if last % 2 else None
        counted += 1
        if counted > last // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return result if last % 2 else function(*arguments, **keywords)

    return call


if __name__ == "__main__":
    stores, *words = sys.argv[1:]
    config = yaml.safe_load(Path(words[words.index("--config") + 1]).read_text())
    Encoder.from_config(config["encoder"])._tower("vision")
    for last in range(1000):
        child = os.fork()
        if child == 0:
            Path.replace = killing(Path.replace, last)  # type: ignore[method-assign]
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            app([*words, "--out", f"{stores}/{last}"])
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            print(last, "runs were killed; the next ended with", os.WEXITSTATUS(status))
            break
