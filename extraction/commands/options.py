"""`--options KEY VALUE ...`, as in LAVIS: pairs up to the next option that override configuration keys."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

NAME = "--options"

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        NAME,
        metavar="KEY VALUE ...",
        help="Override configuration keys, as in: --options batch_size.vision 32 workers 4",
    ),
]


class OptionsCommand(TyperCommand):
    """A command whose `--options` takes all words up to the next one that begins with two dashes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give each word of `--options` the option's name, which is how one that is repeated is told."""
        words: list[str] = []
        taking = False
        for word in args:
            if word.startswith("--"):
                taking = word == NAME
            if not taking:
                words.append(word)
            elif word != NAME:
                words.append(f"{NAME}={word}")
        return super().parse_args(ctx, words)
