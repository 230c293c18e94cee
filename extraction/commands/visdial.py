"""`python -m extraction visdial`: VisDial's pictures, captions and questions into an embedding store."""

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from extraction.commands.messages import told_in_one_line
from extraction.commands.options import Overrides
from extraction.commands.slicing import Shard, choose_share
from extraction.errors import InputError

if TYPE_CHECKING:
    from extraction.pipeline import Summary

NAMED_FAILURES = 10  # so many pictures are named on the terminal; failed.jsonl names all


def visdial(
    config: Annotated[Path, typer.Option(help="YAML file, see configs/extraction.", show_default=False)],
    split: Annotated[
        list[str] | None,
        typer.Option(help="Only this split of the configuration; may be given several times."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the store, instead of the configured one.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="builtin, or imagebind: the upstream package."),
    ] = None,
    shard: Shard = None,
    options: Overrides = None,
) -> None:
    """Encode the pictures, captions and questions of VisDial v1.0 annotations into an embedding store.

    Interrupted at any moment, the same command goes on where it stopped and ends with the same files.
    Pictures that cannot be read are listed in <store>/<split>/failed.jsonl; once they are repaired the same
    command adds them.

    Exit status: 0 done, 1 done but for the listed pictures (under torchrun 0, `merge` tells), 2 unusable
    input, 130 interrupted.
    """
    with told_in_one_line():
        succeeded = _extract(config, split or [], out, backend, shard, options or [])
    if not succeeded:
        raise typer.Exit(1)


def _extract(
    config: Path,
    splits: list[str],
    out: Path | None,
    backend: str | None,
    shard: str | None,
    options: list[str],
) -> bool:
    """Extract `splits`, or all of the configuration's; tells whether that ends well."""
    # Here and not above: torch takes seconds to import, for which --help and an early Ctrl-C should not wait.
    from rich.console import Console

    from extraction.configuration import refuse_unknown
    from extraction.encoder import Encoder
    from extraction.pipeline import check_inputs, extract_split
    from extraction.settings import load_settings

    settings = load_settings(config, options, out, backend)
    refuse_unknown(splits, settings.splits, "--split")
    names = [name for name in settings.splits if not splits or name in splits]
    share = choose_share(shard, settings.store)
    if settings.prepare and not all(settings.splits[name].annotations.exists() for name in names):
        if share.launched:
            raise InputError(
                "the annotations are absent, and under torchrun every process would make them: run "
                f"`{settings.prepare}` first"
            )
        _prepare(settings.prepare)
        # Again, because its paths are looked up among the files that there are.
        settings = load_settings(config, options, out, backend)
    settings = replace(settings, store=share.folder)
    check_inputs(settings, names)
    encoder = Encoder.from_config(settings.encoder)
    console = Console(stderr=True)
    failures = 0
    for name in names:
        summary = extract_split(name, settings, encoder, console, share.part)
        _report(name, settings.store / name, summary)
        failures += len(summary.failed)
    # torchrun ends all processes as soon as one fails.
    return share.launched or not failures


def _report(name: str, folder: Path, summary: "Summary") -> None:
    failed = summary.failed
    typer.echo(
        f"{name}: {summary.pictures - len(failed)} pictures and {summary.texts} distinct texts in {folder} "
        f"({summary.encoded} encoded now)"
    )
    for row in failed[:NAMED_FAILURES]:
        typer.echo(f"failed: image {row['image_id']}: {row['reason']}", err=True)
    if failed:
        typer.echo(
            f"error: {len(failed)} of {summary.pictures} pictures could not be read and are listed in "
            f"{folder}/failed.jsonl: repair or supply them and run the same command again",
            err=True,
        )


def _prepare(command: str) -> None:
    """Run the configuration's `data.prepare`. Raises InputError where it cannot be run or fails."""
    typer.echo(f"data.prepare: {command}")
    try:
        words = shlex.split(command)
        if words[0] in ("python", "python3"):
            words[0] = sys.executable
        status = subprocess.run(words, check=False).returncode
    except (OSError, ValueError) as error:
        raise InputError(f"data.prepare `{command}` cannot be run: {error}") from error
    if status:
        raise InputError(f"data.prepare `{command}` failed with exit status {status}: see its message above")
