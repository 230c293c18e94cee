"""`python -m extraction merge`: the slices of a store into the whole store."""

from pathlib import Path
from typing import Annotated

import typer

from extraction.commands.messages import told_in_one_line


def merge(
    parts: Annotated[
        list[Path], typer.Argument(metavar="PART", help="The folders of all slices.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder of the whole store.", show_default=False)],
) -> None:
    """Join the slices that `--shard I/N` or torchrun made of a store.

    The whole store has the same bytes as one made in one piece. The slices stay as they are.

    Exit status: 0 done, 1 done but for items that could not be read, 2 unusable input, 130 interrupted.
    """
    with told_in_one_line(kept="the slices are kept, the same command begins again"):
        from extraction.merge import merge_stores

        stores = merge_stores(parts, out)
    for store in stores:
        rows = ", ".join(f"{rows} {kind}" for kind, rows in store.rows.items() if rows)
        typer.echo(f"{store.folder}: {rows or 'nothing'} from {len(parts)} slices")
        if store.failed:
            typer.echo(
                f"error: {store.failed} items could not be read and are listed in "
                f"{store.folder}/failed.jsonl: repair them, extract their slices again, and merge again",
                err=True,
            )
    if any(store.failed for store in stores):
        raise typer.Exit(1)
