"""`python -m extraction convert`: a weights file into a folder with a file for each tower."""

from pathlib import Path
from typing import Annotated

import typer

from extraction.commands.messages import told_in_one_line


def convert(
    weights: Annotated[
        Path, typer.Argument(help="imagebind_huge.pth, or any weights under its names.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(help="Folder to make; encoder.weights may name it.", show_default=False)
    ],
    config: Annotated[str, typer.Option(help="huge, or a JSON file of the weights' sizes.")] = "huge",
    modality: Annotated[
        list[str] | None,
        typer.Option(help="Only this tower; may be given several times. Else all that the sizes name."),
    ] = None,
) -> None:
    """Split weights into one safetensors file for each tower, so that a load reads only what it needs.

    The folder appears when it is whole. Embedding stores made with the file and with the folder are the same.

    Exit status: 0 done, 2 unusable input, 130 interrupted.
    """
    with told_in_one_line(kept="nothing was written"):
        from extraction.convert import convert_weights

        for tower in convert_weights(weights, out, config, modality or None):
            typer.echo(f"{tower.path}: {tower.tensors} tensors, {tower.path.stat().st_size / 1e6:,.1f} MB")
