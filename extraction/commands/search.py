"""`python -m extraction search`: what in a store is nearest to a text, a picture, a sound or a film."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from extraction.commands.messages import shown, told_in_one_line
from extraction.commands.options import Overrides
from extraction.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from extraction.encoder import Encoder
    from extraction.item_store import Hit

LONGEST_TEXT = 80  # characters of a line of text that the table shows


def search(
    store: Annotated[Path, typer.Argument(help="Folder that `files` made.", show_default=False)],
    query: Annotated[
        str, typer.Argument(help="A text, or the path of a picture, sound or film.", show_default=False)
    ],
    top: Annotated[int, typer.Option(min=1, help="How many items to show.")] = 10,
    modality: Annotated[
        list[str] | None,
        typer.Option(help="Only vision (pictures), video, audio or text; may be given several times."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The YAML file that the store was made with, if there was one.")
    ] = None,
    options: Overrides = None,
) -> None:
    """Show the items of a store that are nearest to a query, across modalities, by cosine.

    The encoder must be the one that made the store. Items of equal content are one.

    Exit status: 0 done, 2 unusable input, 130 interrupted.
    """
    with told_in_one_line(kept="nothing is lost"):
        from extraction.configuration import refuse_unknown
        from extraction.encoder import Encoder
        from extraction.item_store import ItemStore
        from extraction.kinds import KINDS
        from extraction.settings import load_item_settings
        from extraction.store_writer import first_difference

        refuse_unknown(modality or (), KINDS, "--modality")
        opened = ItemStore.open(store)
        encoder = Encoder.from_config(load_item_settings(config, options or ()).encoder)
        difference = first_difference(opened.manifest, {"encoder": encoder.identity()})
        if difference:
            raise InputError(
                f"the store {store} was made with {difference[0]}, and the query would be encoded with "
                f"{difference[1]}: name the store's configuration with --config"
            )
        kinds = modality or KINDS
        if not any(opened.rows(kind) for kind in kinds):
            raise InputError(
                f"the store {store} holds nothing of {', '.join(kinds)}: search for another kind"
            )
        hits = opened.nearest(_encode(query, encoder), top, kinds)
        _print(hits)


def _encode(query: str, encoder: "Encoder") -> "Tensor":
    """The query's embedding, [C]: of the file that it names, else of its words."""
    from extraction.kinds import TOWERS, kind_of

    kind, is_file = kind_of(query) or "text", _is_file(query)
    if kind == "text" and kind_of(query) and is_file:
        raise InputError(f"{query} holds texts: give one of its lines as the query")
    if kind != "text" and not is_file:
        raise InputError(f"there is no file {query}: correct the path, or give a text without that ending")
    if TOWERS[kind] not in encoder.towers():
        raise InputError(f"{query} needs the {TOWERS[kind]} tower, which the weights {encoder.weights} lack")
    encode: dict[str, Callable[[list[str]], Tensor]] = {
        "vision": encoder.encode_images,
        "video": encoder.encode_videos,
        "audio": encoder.encode_audio,
        "text": encoder.encode_texts,
    }
    return encode[kind]([query])[0]


def _is_file(query: str) -> bool:
    try:
        return Path(query).is_file()
    except OSError:  # a text that is too long for a name
        return False


def _print(hits: "list[Hit]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for title, side in (("rank", "right"), ("similarity", "right"), ("modality", "left")):
        table.add_column(title, justify=side, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("item", overflow="fold")
    for rank, hit in enumerate(hits, 1):
        table.add_row(str(rank), f"{hit.similarity:.4f}", hit.kind, Text(_describe(hit)))
    console = Console()
    if not sys.stdout.isatty():  # a file or a pipe has no edge to break lines at
        boundless = console.options.update(max_width=100_000)
        console.width = max(console.width, console.measure(table, options=boundless).maximum)
    console.print(table)


def _describe(hit: "Hit") -> str:
    """Where the content is: its files, or of a text file and line, and the text itself."""
    places = [
        shown(item["source"]) + (f":{item['line']}" if item["line"] is not None else "") for item in hit.items
    ]
    more = [f"and {hit.count - len(places)} more"] if hit.count > len(places) else []
    text = shown(hit.items[0].get("text", "")) if hit.items else ""
    cut = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."
    return ", ".join(places + more) + (f"  {cut}" if cut else "")
