"""`--shard`: which slice of a store a process makes, and where."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

if TYPE_CHECKING:
    from extraction.slices import Slice

Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Make only slice I of N, counted from 0, into a folder of its own for `merge`. torchrun gives "
        "each process its slice, in <out>-I-of-N.",
    ),
]


class Share(NamedTuple):
    """A process's slice, the folder for it, and whether other processes run beside it."""

    part: "Slice"
    folder: Path
    launched: bool


def choose_share(shard: str | None, store: Path) -> Share:
    """The slice that `--shard` names, else the one that torchrun gave this process, else all of `store`.

    Raises InputError for a slice that cannot be.
    """
    from extraction.slices import WHOLE, Slice

    if shard is not None:
        return Share(Slice.parse(shard), store, False)
    part = Slice.of_process()
    return Share(part, part.folder(store), part != WHOLE)
