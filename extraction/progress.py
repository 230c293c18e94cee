"""How far an extraction has come, on a terminal or in a log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Speed(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        """Show the speed once there is one."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s", style="progress.data.speed")


class Bar:
    """One line of progress, which starts at what is done already. In a log it prints every tenth."""

    def __init__(self, progress: Progress, title: str, total: int, missing: int) -> None:
        self.progress = progress
        self.title = title
        self.total = total
        self.done = total - missing
        self.task = progress.add_task(title, total=total, completed=self.done)

    def advance(self, count: int) -> None:
        """Move on by `count` items."""
        tenth = 10 * self.done // self.total
        self.done += count
        self.progress.advance(self.task, count)
        if self.progress.disable and 10 * self.done // self.total > tenth:
            say(self.progress.console, f"{self.title}: {self.done} of {self.total}")


@contextmanager
def counting(console: Console, title: str) -> Iterator[Callable[[], None]]:
    """Count up on a terminal, where the end is not known; yields the function to call once for each."""
    columns = (SpinnerColumn(), TextColumn("{task.completed} {task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda: progress.advance(task)


def bars(console: Console) -> Progress:
    """Make the display of bars: done of all, items per second, time left. A log gets none."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
    )
    # On a slow machine a batch takes longer than rich's usual 30 seconds of memory for speeds.
    return Progress(*columns, console=console, speed_estimate_period=600, disable=not console.is_terminal)


def say(console: Console, line: str) -> None:
    """Print a line as it stands, not wrapped or coloured."""
    console.print(line, soft_wrap=True, markup=False, highlight=False)
