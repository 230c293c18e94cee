"""`python -m malmm evaluate memory`: from a configuration to the table, predictions and results.json."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from extraction.encoder import Encoder
from extraction.settings import load_settings
from malmm.config import load_model, parse_options, resolve_path
from malmm.data.locomo import read_locomo
from malmm.data.memory_world import read_memory_world, write_memory_world
from malmm.errors import InputError
from malmm.evaluate.memory import evaluate_locomo, evaluate_memory
from malmm.evaluate.memory_report import show
from malmm.evaluate.results import write_results
from malmm.memory.settings import load_memory_settings
from malmm.models.dialogue import DialogueConfig, DialogueModel

EMBEDDED = "configs/models/dialogue_tiny.yaml"


@dataclass(frozen=True)
class WorldSizes:
    """Of the generated world."""

    users: int = 12
    conversations: int = 10
    questions: int = 5


def run(
    out: Path,
    sizes: WorldSizes,
    seed: int,
    locomo: Path | None,
    ablation: bool,
    config: Path | None,
    memory_config: Path | None,
    options: Sequence[str],
    command: str,
) -> None:
    """Evaluate the memory on the generated world of a seed, or on a file in LoCoMo's format.

    config: of the model and its encoder; memory_config: of the memory; options: `model.a.b value` and
    `memory.a.b value` words over them. Raises InputError with one sentence for what cannot be used.
    """
    about_model, about_memory = split_options(options)
    mapping = load_model(config or EMBEDDED, DialogueConfig, about_model)
    settings = load_memory_settings(memory_config, about_memory)
    encoder = _encoder(mapping)
    if locomo is not None:
        report = evaluate_locomo(read_locomo(locomo), encoder, settings, ablation=ablation)
        title, facts = f"memory, {locomo.name}", {"locomo": str(locomo)}
    else:
        folder = out / f"world_{seed}_{sizes.users}_{sizes.conversations}_{sizes.questions}"
        world = read_memory_world(write_memory_world(folder, **dataclasses.asdict(sizes), seed=seed))
        model = DialogueModel.from_config(mapping)
        report = evaluate_memory(world, model, encoder, settings, ablation=ablation)
        title, facts = f"memory, seed {seed}", {"world": str(folder)}
    configuration = {"model": mapping, "memory": dataclasses.asdict(settings)}
    write_results(out, report, configuration, command=command, seed=seed, **facts)
    console = Console()
    show(report, title, console)
    console.print(f"written to {out}/results.json", soft_wrap=True)


def split_options(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of `--options` for the model and those for the memory. Raises InputError for other keys."""
    sections: dict[str, list[str]] = {"model": [], "memory": []}
    remaining = iter(words)
    for word in remaining:
        pair = [word] if "=" in word else [word, *(value for value in [next(remaining, None)] if value)]
        section = next(iter(parse_options(pair)))
        if section not in sections:
            raise InputError(f"--options: '{word}' is no key here: keys begin with model. or memory.")
        sections[section] += pair
    return sections["model"], sections["memory"]


def _encoder(mapping: Mapping[str, Any]) -> Encoder:
    if not mapping.get("encoder"):
        raise InputError(
            "model.encoder names no extraction configuration: the memory is searched with the encoder's "
            "embeddings, so set it to a file of configs/extraction"
        )
    return Encoder.from_config(load_settings(resolve_path(mapping["encoder"])).encoder)
