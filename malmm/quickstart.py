"""`python -m malmm quickstart`: the whole pipeline on the mini world, by the commands of the real data.

Generate, extract, evaluate an untrained model, finetune it, evaluate again, talk about one picture. Each step
prints its command line and calls that command's own entry function; each goes on where it was stopped.
Under the out folder:

    data/  store/           the mini world and its embeddings
    before/                 checkpoint of the model before finetuning, its results.json and predictions.jsonl
    finetune/               checkpoints and logs of the training
    after/                  results.json and predictions.jsonl of the finetuned model
    results.json            before, after and floors beside each other, with the seconds of each step
    predictions.jsonl       every question of the val split with the finetuned model's answer
    conversation.txt        the conversation below the table; picture.jpg is what it is about
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console

from extraction.files import write_atomically
from malmm.config import PROJECT
from malmm.errors import InputError

EXTRACTION = "configs/extraction/mini.yaml"
TASK = "configs/tasks/finetune_visdial.yaml"
CHAT = ("python", "-m", "malmm", "chat")


@dataclass(frozen=True)
class Sizes:
    """Dialogues to train and to evaluate on, and passes over the former."""

    train: int
    val: int
    epochs: int


class StepError(Exception):
    """A step ended with an exit status other than 0 and has said why itself."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def extraction_words(data: Path, store: Path) -> list[str]:
    """What follows `python -m extraction` to embed train and val of the mini world in `data`."""
    options = {
        "data.splits.train.annotations": data / "visdial_1.0_train.json",
        "data.splits.train.images": [data / "train2014", data / "val2014"],
        "data.splits.val.annotations": data / "visdial_1.0_val.json",
        "data.splits.val.images": [data / "VisualDialog_val2018"],
    }
    words = ["visdial", "--config", EXTRACTION, "--split", "train", "--split", "val"]
    return [*words, "--out", str(store), *option_words(options)]


def dataset_options(data: Path, store: Path) -> dict[str, Any]:
    """The keys of `datasets.visdial` for the mini world in `data` and its embeddings in `store`."""
    return {
        "datasets.visdial.store": store,
        "datasets.visdial.annotations.train": data / "visdial_1.0_train.json",
        "datasets.visdial.annotations.val": data / "visdial_1.0_val.json",
        "datasets.visdial.dense.train": data / "visdial_1.0_train_dense_annotations.json",
        "datasets.visdial.dense.val": data / "visdial_1.0_val_dense_annotations.json",
    }


class Quickstart:
    """One run of the pipeline; everything it makes lies under `out`."""

    def __init__(self, out: Path, sizes: Sizes) -> None:
        self.out = out
        self.sizes = sizes
        self.console = Console(highlight=False, markup=False)
        if not self.console.is_terminal:
            self.console.width = 120
        self.seconds: dict[str, float] = {}
        self.untrained = out / "before" / "checkpoint_untrained.pth"
        self.finetuned = out / "finetune" / "checkpoint_latest.pth"

    def run(self) -> None:
        """Do all steps. Raises InputError for an `out` of other sizes, StepError where a command fails."""
        self._claim_folder()
        use_one_thread()
        with self._step("generate"):
            self._generate()
        with self._step("extract"):
            self._extract()
        with self._step("evaluate before"):
            self._save_untrained()
            self._evaluate(self.untrained, self.out / "before")
        with self._step("finetune"):
            self._finetune()
        with self._step("evaluate after"):
            self._evaluate(self.finetuned, self.out / "after")
        with self._step("talk"):
            conversation = self._talk()
        self._finish(conversation)

    # -- steps ---------------------------------------------------------------------------------------

    def _generate(self) -> None:
        from malmm.data.mini import write_world

        data, sizes = self.out / "data", self.sizes
        counts = {"train": sizes.train, "val": sizes.val, "test": 1}
        words = [word for name, count in counts.items() for word in (f"--{name}", str(count))]
        self._announce("python", "-m", "malmm", "data", "mini", "--out", str(data), *words)
        write_world(data, **counts)

    def _extract(self) -> None:
        from extraction.__main__ import app

        words = extraction_words(self.out / "data", self.out / "store")
        self._announce("python", "-m", "extraction", *words)
        run_command(lambda: app(args=words))

    def _task_words(self) -> list[str]:
        options: dict[str, Any] = {
            "model.pretrained": None,  # from scratch: the embedded default has learned this world already
            **dataset_options(self.out / "data", self.out / "store"),
            "run.output_dir": self.out,
            "run.job": "finetune",
            "run.max_epoch": self.sizes.epochs,
        }
        return ["--cfg-path", TASK, *option_words(options)]

    def _save_untrained(self) -> None:
        """The model that finetuning starts from, as a checkpoint that evaluate.py reads."""
        if self.untrained.is_file():
            return
        from extraction.store import EmbeddingStore
        from malmm.config import load_task
        from malmm.models.checkpoint import save_checkpoint
        from malmm.models.dialogue import DialogueModel
        from malmm.train.tasks import MODELS

        words = self._task_words()
        task = load_task(TASK, words[words.index("--options") + 1 :], MODELS)
        model = DialogueModel.from_config(task.model)
        self.untrained.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = {
            "model": model.trainable_state(),
            "frozen_fingerprint": model.frozen_fingerprint(),
            "encoder": EmbeddingStore.open(self.out / "store" / "train").manifest["encoder"],
            "config": task.to_dict(),
            "epoch": 0,
            "step": 0,
        }
        save_checkpoint(self.untrained, checkpoint)

    def _finetune(self) -> None:
        from malmm.train.run import main

        words = self._task_words()
        self._announce("python", "-m", "lavis.tasks.run", *words)
        run_command(lambda: main(words))

    def _evaluate(self, checkpoint: Path, output: Path) -> None:
        words = ["--checkpoint", str(checkpoint), "--split", "val", "--output", str(output)]
        self._announce("python", "evaluate.py", *words)
        results = output / "results.json"
        inputs = (checkpoint, self.out / "store" / "val" / "manifest.json")
        if results.is_file() and all(results.stat().st_mtime >= path.stat().st_mtime for path in inputs):
            self._say(f"done before: {results}")
            return
        main = load_script("evaluate").main
        output.mkdir(parents=True, exist_ok=True)
        with (
            (output / "table.txt").open("w") as file,
            redirect_stdout(file),
        ):  # one table, at the end, is enough
            run_command(lambda: main(words))

    def _talk(self) -> list[str]:
        """Hold the conversation; returns its lines."""
        from malmm.chat.loading import load_session
        from malmm.chat.scripted import choose, hold, read_mini_dialogues
        from malmm.data.mini import picture_name

        script = choose(read_mini_dialogues(self.out / "data", "val"))
        picture = self.out / "picture.jpg"
        shutil.copyfile(self.out / "data" / picture_name("val", script.image_id), picture)
        words = ["--image", str(picture), "--caption", script.caption]
        self._announce(*CHAT, "--checkpoint", str(self.finetuned), *words)
        return hold(load_session(checkpoint=self.finetuned), picture, script)

    def _finish(self, conversation: Sequence[str]) -> None:
        before, after = (
            json.loads((self.out / name / "results.json").read_text()) for name in ("before", "after")
        )
        shutil.copyfile(self.out / "after" / "predictions.jsonl", self.out / "predictions.jsonl")
        kept = ("unit", "signatures", "notes", "dialogues", "rounds", "versions", "commit")
        results = {
            "metrics": table_rows(before["metrics"], after["metrics"]),
            **{key: after[key] for key in kept},
            "sizes": asdict(self.sizes),
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
        }
        _write(self.out / "results.json", json.dumps(results, indent=2) + "\n")
        _write(self.out / "conversation.txt", "\n".join(conversation) + "\n")
        self._show(results, conversation)

    # -- what is printed, and how a step is run ------------------------------------------------------

    def _show(self, results: dict[str, Any], conversation: Sequence[str]) -> None:
        from malmm.evaluate.dialogue import COLUMNS
        from malmm.evaluate.report import scores_table

        self._say(
            f"\nmini world, val: {results['rounds']} rounds of {results['dialogues']} dialogues, in percent"
        )
        self.console.print(scores_table(results["metrics"], COLUMNS))
        for line in [*signature_lines(results), "", *conversation, ""]:
            self._say(line)
        times = ", ".join(f"{name} {value:.0f} s" for name, value in results["seconds"].items())
        self._say(f"{times}; together {sum(self.seconds.values()):.0f} s")
        self._say(f"everything is under {self.out}/; to go on talking:")
        self._announce(*CHAT, "--checkpoint", str(self.finetuned), "--image", str(self.out / "picture.jpg"))

    def _say(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, soft_wrap=True)

    def _claim_folder(self) -> None:
        """Note the sizes in the out folder. Raises InputError where it was made with other ones."""
        path, own = self.out / "quickstart.json", asdict(self.sizes)
        if path.is_file():
            if (there := json.loads(path.read_text())) != own:
                sizes = ", ".join(f"{key} {value}" for key, value in there.items())
                raise InputError(
                    f"{self.out} holds a quickstart of other sizes ({sizes}): delete it or name another --out"
                )
            return
        self.out.mkdir(parents=True, exist_ok=True)
        _write(path, json.dumps(own) + "\n")

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self._say(f"\n== {name}", style="bold")
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began
        self._say(f"== {name}: {self.seconds[name]:.1f} s", style="bold")

    def _announce(self, *words: str) -> None:
        self._say(f"$ {shlex.join(words)}", style="cyan")


def use_one_thread() -> None:
    """Compute on one thread, unless OMP_NUM_THREADS says otherwise.

    The model is tiny: two threads gain little, and on two busy cores they wait for each other (four times
    slower when measured).
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def run_command(command: Callable[[], int | None]) -> None:
    """Call a command line's function. Raises StepError where it ends with an exit status other than 0."""
    sys.stdout.flush()
    try:
        status = command()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    if status:
        raise StepError(status)


def table_rows(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The rows of two evaluations' `metrics` as one table: before, after, floors."""
    from malmm.evaluate.dialogue import SHUFFLED
    from malmm.evaluate.report import MODEL

    named = {MODEL: "after finetuning", SHUFFLED: "after, pictures shuffled"}
    return {
        "before finetuning": before[MODEL],
        **{named.get(name, name): scores for name, scores in after.items()},
    }


def signature_lines(results: dict[str, Any]) -> list[str]:
    """How each column was computed, and what to know about it."""
    from malmm.evaluate.dialogue import COLUMNS

    headings = {name: heading.replace("\n", " ") for name, heading in COLUMNS.items()}
    lines = [f"{heading}: {results['signatures'][name]}" for name, heading in headings.items()]
    return [*lines, *(f"note: {note}" for note in results["notes"])]


def option_words(values: dict[str, Any]) -> list[str]:
    """The words of `--options`: YAML values, quoted where a path needs it."""

    def text(value: Any) -> str:
        if isinstance(value, list):
            return f"[{','.join(map(text, value))}]"
        if value is None:
            return "null"
        return str(value) if re.fullmatch(r"[\w./-]+", str(value)) else json.dumps(str(value))

    return ["--options", *(word for key, value in values.items() for word in (key, text(value)))]


def load_script(name: str) -> ModuleType:
    """A script of the project's root as a module."""
    spec = importlib.util.spec_from_file_location(name, PROJECT / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()) and None)
