"""The steps of `python -m malmm results`, by the commands that a person would type; all of them resume.

Under the out folder: data/ and store/ (the mini world), default/ (the embedded default and its controls),
runs/<variation>_<seed>/ (finetuned from fresh layers), results.json and results.md, images/.
"""

import json
import shlex
import shutil
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from extraction.files import write_atomically
from malmm.errors import InputError
from malmm.evaluate.results import commit, versions
from malmm.quickstart import (
    TASK,
    dataset_options,
    extraction_words,
    load_script,
    option_words,
    run_command,
    use_one_thread,
)
from malmm.results import figures, tables
from malmm.results.plan import NO_BANK, NO_BANK_COMMAND, NO_BANK_WEIGHTS, VARIATIONS, Sizes, Variation

DEFAULT = "assets/tiny/dialogue"


class Results:
    """One making of the results; everything but the finished page lies under `out`."""

    def __init__(self, out: Path, sizes: Sizes, docs: Path | None) -> None:
        self.out, self.sizes, self.docs = out, sizes, docs
        self.console = Console(highlight=False, markup=False, soft_wrap=True)
        self.began = time.monotonic()

    def run(self) -> None:
        """Do what is missing. InputError for an `out` of other sizes, StepError where a command fails."""
        self._claim_folder()
        use_one_thread()
        jobs = [(variation, seed) for variation in VARIATIONS for seed in self.sizes.seeds]
        total = len(jobs) + 4
        self._say(1, total, "generate and extract")
        self._generate()
        self._say(2, total, "the embedded default and its controls")
        default = self._evaluate(None, self.out / "default", {"model.pretrained": DEFAULT}, "--controls")
        rows = self._no_bank()
        for number, (variation, seed) in enumerate(jobs, 3):
            self._say(number, total, f"{variation.name}, seed {seed}")
            rows.setdefault(variation.name, []).append(self._variation(variation, seed))
        self._say(total - 1, total, "figures")
        self._figures()
        self._say(total, total, "tables")
        self._write(default, rows)

    # -- steps ---------------------------------------------------------------------------------------

    def _generate(self) -> None:
        from extraction.__main__ import app
        from malmm.data.mini import write_world

        data, sizes = self.out / "data", self.sizes
        self._announce("python", "-m", "malmm", "data", "mini", "--out", str(data),
                       "--train", str(sizes.train), "--val", str(sizes.val), "--test", "1")  # fmt: skip
        write_world(data, train=sizes.train, val=sizes.val, test=1)
        words = extraction_words(data, self.out / "store")
        self._announce("python", "-m", "extraction", *words)
        run_command(lambda: app(args=words))

    def _no_bank(self) -> dict[str, list[dict[str, Any]]]:
        """The control that was trained without the bank, where its weights are at hand."""
        weights = NO_BANK_WEIGHTS
        if not (weights / "dialogue").is_dir():
            self.console.print(f"left out: {NO_BANK}, which `{NO_BANK_COMMAND}` makes in an hour")
            return {}
        options = {
            "model.pretrained": weights / "dialogue",
            "model.qformer_weights": weights / "qformer.safetensors",
            "model.language.path": weights / "llm",
            "model.memory_bank_length": 0,
        }
        return {NO_BANK: [self._evaluate(None, self.out / "no_bank", options)]}

    def _variation(self, variation: Variation, seed: int) -> dict[str, Any]:
        options = {**variation.options, "run.seed": seed, "model.init_seed": seed}
        folder = self._folder(variation, seed)
        if not variation.trained:
            return self._evaluate(None, folder, options)
        from malmm.train.run import main

        words = ["--cfg-path", TASK, *option_words(self._options(folder.name) | options)]
        self._announce("python", "-m", "lavis.tasks.run", *words)
        run_command(lambda: main(words))
        return self._evaluate(folder / "checkpoint_latest.pth", folder / "evaluate_val", {})

    def _folder(self, variation: Variation, seed: int) -> Path:
        return self.out / "runs" / f"{variation.slug}_{seed}"

    def _options(self, job: str) -> dict[str, Any]:
        sizes = self.sizes
        return {
            **dataset_options(self.out / "data", self.out / "store"),
            "run.output_dir": self.out / "runs",
            "run.job": job,
            "run.max_epoch": sizes.epochs,
            "run.init_lr": sizes.learning_rate,
            "run.tensorboard": "false",
            "run.save_every_steps": 0,
        }

    def _evaluate(
        self, checkpoint: Path | None, output: Path, options: Mapping[str, Any], *more: str
    ) -> dict[str, Any]:
        """Evaluate a checkpoint, or the task file's model with `options`; returns its results.json."""
        if checkpoint is not None:
            words = ["--checkpoint", str(checkpoint)]
            needed = [checkpoint]
        else:
            words = ["--cfg-path", TASK, "--options", *option_words({**self._options("none"), **options})[1:]]
            needed = []
        words = [*more, "--output", str(output), *words]
        self._announce("python", "evaluate.py", *words)
        results = output / "results.json"
        needed += [
            self.out / "store" / "val" / "manifest.json",
            *Path(options.get("model.pretrained", DEFAULT)).resolve().glob("*"),
        ]
        if results.is_file() and all(results.stat().st_mtime >= path.stat().st_mtime for path in needed):
            self.console.print(f"done before: {results}")
        else:
            main = load_script("evaluate").main
            output.mkdir(parents=True, exist_ok=True)
            with (output / "table.txt").open("w") as file, redirect_stdout(file):
                run_command(lambda: main(words))
        found: dict[str, Any] = json.loads(results.read_text())
        return found

    def _figures(self) -> None:
        images = self.out / "images"
        images.mkdir(exist_ok=True)
        runs = {
            variation.name: [self._folder(variation, seed) / "steps.jsonl" for seed in self.sizes.seeds]
            for variation in VARIATIONS
            if variation.trained
        }
        figures.learning_curves(runs, images / "learning_curves.png")
        figures.merges(self.out, images / "memory_bank.png")

    def _write(self, default: dict[str, Any], rows: dict[str, list[dict[str, Any]]]) -> None:
        page = tables.page(default, rows, self.sizes, commit())
        facts = {
            "sizes": asdict(self.sizes),
            "default": tables.facts(default),
            "variations": {name: [tables.facts(run) for run in runs] for name, runs in rows.items()},
            "versions": versions(),
            "commit": commit(),
        }
        write_text(self.out / "results.json", json.dumps(facts, indent=2) + "\n")
        write_text(self.out / "results.md", page)
        if self.docs is not None:
            tables.insert(self.docs / "results.md", page)
            write_text(self.docs / "results_dialogue.json", json.dumps(facts, indent=2) + "\n")
            (self.docs / "images").mkdir(exist_ok=True)
            for image in sorted((self.out / "images").glob("*.png")):
                target = self.docs / "images" / image.name
                shutil.copyfile(image, target)
        minutes = (time.monotonic() - self.began) / 60
        self.console.print(f"\nwritten: {self.docs or self.out}/results.md; this call took {minutes:.1f} min")

    # -- what is printed -----------------------------------------------------------------------------

    def _claim_folder(self) -> None:
        """Note the sizes in the out folder. Raises InputError where it was made with other ones."""
        path, own = self.out / "sizes.json", json.loads(json.dumps(asdict(self.sizes)))
        if path.is_file() and json.loads(path.read_text()) != own:
            raise InputError(f"{self.out} holds results of other sizes: delete it or name another --out")
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(own) + "\n")

    def _say(self, number: int, total: int, what: str) -> None:
        minutes = (time.monotonic() - self.began) / 60
        self.console.print(f"\n== {number} of {total}: {what} (after {minutes:.1f} min)", style="bold")

    def _announce(self, *words: str) -> None:
        self.console.print(f"$ {shlex.join(words)}", style="cyan")


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears whole."""
    write_atomically(path, lambda file: file.write(text.encode()) and None)
