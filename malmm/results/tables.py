"""The tables of docs/results.md between their markers, from the results.json of each evaluation."""

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from malmm.errors import InputError
from malmm.evaluate.breakdown import DIRECT, REFERS_BACK
from malmm.evaluate.controls import CURRENT, SHUFFLED
from malmm.evaluate.report import MODEL
from malmm.results.plan import (
    BACK_TARGET,
    DIRECT_TARGET,
    HISTORY_TARGET,
    NO_BANK,
    NO_BANK_COMMAND,
    PICTURES_TARGET,
    Sizes,
)

BEGIN, END = "<!-- dialogue:begin (python -m malmm results) -->", "<!-- dialogue:end -->"
Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def page(default: Mapping[str, Any], runs: Runs, sizes: Sizes, commit: Mapping[str, Any] | None) -> str:
    """Everything between the markers: targets, ablations, rounds, figures, commands."""
    counts = f"{default['rounds']:,} rounds of {default['dialogues']} dialogues"
    state = f"{commit['hash'][:12]}{' with changes' if commit['dirty'] else ''}" if commit else "unknown"
    seeds = ", ".join(map(str, sizes.seeds))
    parts = [
        f"Mini world, val: {counts}; exact match in percent (signature: "
        f"`{default['signatures']['exact_match']}`). "
        f"Commit {state}. Every value with its command, seed and commit: results_dialogue.json.",
        targets(default, runs),
        ablations(default, runs),
        f"Fresh layers: {sizes.train:,} dialogues, {sizes.epochs} epochs of batches of 8, learning rate "
        f"{sizes.learning_rate:g}, seeds {seeds}; mean ± standard deviation. A short training, to "
        "compare, not to reach the most. `fc`: turn_pe stays at its random start. Without the bank: trained "
        "and asked with the current turn only; the frozen Q-Former and language model under it learned with "
        "the bank. `history text in the prompt`: true earlier questions and answers, which this model never "
        "saw in training.",
        f"`{NO_BANK}`: trained from nothing in the same stages and steps, seeing the current turn only "
        f"(`{NO_BANK_COMMAND}`, an hour); one seed."
        + ("" if NO_BANK in runs else " Its weights were not at hand when this page was made."),
        by_round(default),
        f"{note(default, 'pictures matter', 'IMAGE-BLIND')}.",
        "![The bank's merges for one dialogue](images/memory_bank.png)",
        "![Learning curves](images/learning_curves.png)",
        commands(default, runs),
    ]
    return "\n\n".join(parts) + "\n"


def targets(default: Mapping[str, Any], runs: Runs) -> str:
    """The default's targets and what was reached."""
    rows = default["accuracy"]
    own, alone = (types(rows[name]) for name in (MODEL, CURRENT))
    pictures = overall(default, MODEL) - overall(default, SHUFFLED)
    history = own[REFERS_BACK] - alone[REFERS_BACK]
    lines = [
        ("rounds that need no history", own[DIRECT], DIRECT_TARGET),
        ("rounds that refer back", own[REFERS_BACK], BACK_TARGET),
        ("above itself with pictures shuffled, all rounds", pictures, PICTURES_TARGET),
        ("above itself with the current turn only, rounds that refer back", history, HISTORY_TARGET),
    ]
    for control in runs.get(NO_BANK, ()):
        without = types(control["accuracy"][MODEL])[REFERS_BACK]
        lines.append(
            ("above the same recipe without the bank, rounds that refer back", own[REFERS_BACK] - without, 0)
        )
    body = [
        f"| {name} | {'above 0' if least == 0 else f'{least:.0f}'} | {value:.1f} | "
        f"{'reached' if (value > least if least == 0 else value >= least) else '**missed**'} |"
        for name, value, least in lines
    ]
    return "\n".join(["| the embedded default | target | val | |", "| --- | --- | --- | --- |", *body])


def ablations(default: Mapping[str, Any], runs: Runs) -> str:
    """Exact match of every row, by question type."""
    lines = [
        "| exact match | all | needs no history | refers back |",
        "| --- | --- | --- | --- |",
        f"| **the embedded default** (bank of 10) | {_cells(default, MODEL)} |",
    ]
    for name in default["accuracy"]:
        if name != MODEL:
            lines.append(f"| {name.removeprefix('model, ')} | {_cells(default, name)} |")
    for name, results in runs.items():
        values = [[overall(run, MODEL), *types(run["accuracy"][MODEL]).values()] for run in results]
        cells = " | ".join(_spread(column) for column in zip(*values, strict=True))
        lines.append(f"| {name if name == NO_BANK else f'fresh layers: {name}'} | {cells} |")
    return "\n".join(lines)


def by_round(default: Mapping[str, Any]) -> str:
    """Exact match of the default and of its main controls in each round."""
    rows = {name: default["accuracy"][name]["by_round"] for name in (MODEL, CURRENT, SHUFFLED)}
    numbers = list(rows[MODEL])
    lines = [f"| round | {' | '.join(numbers)} |", f"|{' --- |' * (len(numbers) + 1)}"]
    for name, values in rows.items():
        shown = "the embedded default" if name == MODEL else name.removeprefix("model, ")
        lines.append(f"| {shown} | {' | '.join(f'{values[number]:.1f}' for number in numbers)} |")
    return "\n".join(lines)


def commands(default: Mapping[str, Any], runs: Runs) -> str:
    """The command lines: of the default, and of each variation's first seed."""
    lines = [default["command"], *(results[0]["command"] for results in runs.values())]
    body = "\n".join(dict.fromkeys(lines))
    return (
        f"<details><summary>Commands</summary>\n\n```\nmake results\n{body}\n```\n\n"
        "The training commands are printed by `make results`.\n</details>"
    )


def note(results: Mapping[str, Any], *marks: str) -> str:
    """The evaluation's own sentence that has one of the marks."""
    return next((line for line in results["notes"] if any(mark in line for mark in marks)), "no note")


def overall(results: Mapping[str, Any], row: str) -> float:
    """Exact match over all rounds."""
    return float(results["metrics"][row]["exact_match"])


def types(row: Mapping[str, Any]) -> dict[str, float]:
    """Exact match by question type, in the tables' order; nan where a type does not occur."""
    return {name: row["by_type"].get(name, float("nan")) for name in (DIRECT, REFERS_BACK)}


def facts(results: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader needs of one evaluation to repeat it."""
    run, model = (results["configuration"][part] for part in ("run", "model"))
    kept = ("command", "rounds", "dialogues", "accuracy", "notes", "commit", "date")
    return {
        **{name: results[name] for name in kept},
        "seed": {"run.seed": run["seed"], "model.init_seed": model["init_seed"]},
        "exact_match": {name: scores["exact_match"] for name, scores in results["metrics"].items()},
        "signature": results["signatures"]["exact_match"],
    }


def insert(path: Path, text: str) -> None:
    """Replace what stands between the markers of a page. Raises InputError where it has none."""
    from malmm.results.run import write_text

    old = path.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if not pattern.search(old):
        raise InputError(f"{path} has no lines '{BEGIN}' and '{END}': add them where the tables belong")
    write_text(path, pattern.sub(lambda match: f"{BEGIN}\n{text}{END}", old))


def _cells(results: Mapping[str, Any], row: str) -> str:
    values = [overall(results, row), *types(results["accuracy"][row]).values()]
    return " | ".join(f"{value:.1f}" for value in values)


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"
