"""Score a checkpoint on a split of its data set, beside the floors that a model with eyes has to beat.

    python evaluate.py --checkpoint <checkpoint_latest.pth> --llm_model_path <folder> [--split val]
    python evaluate.py --checkpoint ... --metrics all --submit ranks.json                 (VisDial's ranking)
    python evaluate.py --cfg-path configs/tasks/msvd_qa.yaml                              (zero-shot)
    python evaluate.py --cfg-path configs/tasks/scienceqa.yaml --split test
    torchrun --nproc_per_node 4 evaluate.py --checkpoint ...                              (on four GPUs)

The configuration is the one that the checkpoint was trained with, or that of the task file;
`--options model.a.b value` overrides it. A checkpoint of MA-LMM's own code needs the task file.
"""

import argparse
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from extraction.errors import InputError as ExtractionInputError
from extraction.files import sha256_of
from malmm.config import TaskConfig, load_stored_task, load_task, resolve_path
from malmm.errors import InputError
from malmm.evaluate.journal import Journal
from malmm.evaluate.results import commit, write_results
from malmm.models.checkpoint import is_of_malmm, load_checkpoint
from malmm.ready.dialogue import METRICS, dialogue_split
from malmm.ready.scienceqa import scienceqa_split
from malmm.ready.split import is_first
from malmm.ready.video import video_split
from malmm.train.folder import first_difference
from malmm.train.tasks import MODELS, begin_with_malmm


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, 2 after one sentence where the input cannot be used."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        evaluate(_parse(words), shlex.join(["python", "evaluate.py", *words]))
    except (InputError, ExtractionInputError) as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Score a model on a split of its data set, beside its floors."
    )
    parser.add_argument("--checkpoint", type=Path, help="checkpoint_*.pth of a training run")
    parser.add_argument(
        "--cfg-path", help="task file: its model as it is, or with what the checkpoint has learned"
    )
    parser.add_argument("--llm_model_path", help="folder of the language model, if not the configured one")
    parser.add_argument("--split", default="val", help="split of the data set (default: val)")
    parser.add_argument("--output", type=Path, help="default: evaluate_<split> beside the checkpoint")
    parser.add_argument(
        "--no-shuffled", action="store_true", help="leave out the row that asks the model a second time"
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=METRICS,
        default=["text"],
        help="dialogues: text (default), ranking of the options, human answer sets; or all",
    )
    parser.add_argument(
        "--submit", type=Path, metavar="FILE", help="dialogues: also write the ranks as EvalAI takes them"
    )
    parser.add_argument(
        "--controls", action="store_true", help="dialogues: also without memory, without turn_pe, ..."
    )
    parser.add_argument(
        "--rank-labels", action="store_true", help="videos: rank the training split's labels by likelihood"
    )
    parser.add_argument(
        "--upstream-results", type=Path, metavar="FILE", help="videos: also write answers as MA-LMM does"
    )
    parser.add_argument(
        "--options", nargs="*", default=[], metavar="KEY VALUE", help="run.batch_size_eval 32"
    )
    return parser.parse_args(arguments)


def evaluate(arguments: argparse.Namespace, command: str) -> None:
    """Answer the split, print the table, write predictions.jsonl and results.json, which keeps `command`."""
    path, split = arguments.checkpoint, arguments.split
    task, checkpoint = _task(arguments)
    if task.run.num_threads:
        torch.set_num_threads(task.run.num_threads)
    task, accelerator = _shared(task)
    prepare = scienceqa_split if "scienceqa" in task.datasets else dialogue_split
    prepare = prepare if task.model["arch"] == "dialogue" else video_split
    ready = prepare(arguments, task, checkpoint, accelerator)

    run = Path(task.run.output_dir).expanduser() / "zero_shot" / task.run.job
    output = arguments.output or (path.parent if path is not None else run) / f"evaluate_{split}"
    journal = _journal(output, _key(path, task, split, ready.data), accelerator)
    console = Console(quiet=not is_first(accelerator))
    if len(journal):
        console.print(f"going on after {len(journal)} batches that {journal.path} holds", soft_wrap=True)
    report = ready.ask(journal)
    if checkpoint and (
        other := first_difference({"model": checkpoint["config"]["model"]}, {"model": task.model})
    ):
        report.notes.append(f"the checkpoint was trained as another model ({other})")
    if is_first(accelerator):
        given = {"checkpoint": None if path is None else str(path), "split": split}
        write_results(output, report, task.to_dict(), command=command, **given)
        ready.write(report)
    journal.remove()
    report.show(f"{path or f'{arguments.cfg_path} zero-shot'}, {split}", console)
    written = [output / name for name in (*report.files(), "results.json")]
    console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True)


def _task(arguments: argparse.Namespace) -> tuple[TaskConfig, dict[str, Any] | None]:
    """The configuration of the task file, or where none is named of the checkpoint; and the checkpoint."""
    path, task_file, folder = arguments.checkpoint, arguments.cfg_path, arguments.llm_model_path
    if path is None and task_file is None:
        raise InputError("there is nothing to evaluate: give --checkpoint, or --cfg-path for a task file")
    of_malmm = path is not None and is_of_malmm(path)
    if of_malmm and task_file is None:
        raise InputError(
            f"{path} is a checkpoint of MA-LMM's own code: give --cfg-path for its task file too"
        )
    checkpoint = load_checkpoint(path) if path is not None and not of_malmm else None
    if task_file is None:
        assert checkpoint is not None
        return load_stored_task(checkpoint["config"], arguments.options, MODELS, path, folder), checkpoint
    task = load_task(task_file, arguments.options, MODELS)
    task = load_stored_task(task.to_dict(), [], MODELS, task_file, folder)
    return (begin_with_malmm(task, path) if of_malmm else task), checkpoint


def _shared(task: TaskConfig) -> tuple[TaskConfig, Accelerator | None]:
    """Under torchrun, what lets the processes share the work, each with its own device; else None."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return task, None
    language = task.model["language"]
    accelerator = Accelerator(cpu=language.get("device") == "cpu" or not torch.cuda.is_available())
    if language.get("device", "auto") == "auto":
        language = {**language, "device": str(accelerator.device)}
    return replace(task, model={**task.model, "language": language}), accelerator


def _journal(output: Path, key: str, accelerator: Accelerator | None) -> Journal:
    share = f".{accelerator.process_index}of{accelerator.num_processes}" if accelerator else ""
    try:
        return Journal(output / f"predictions.partial{share}.jsonl", key)
    except OSError as error:
        raise InputError(
            f"nothing can be written to {output} ({error.strerror}): name another --output"
        ) from error


def _key(path: Path | None, task: TaskConfig, split: str, data: Any) -> str:
    """What the answers depend on: an interrupted evaluation goes on only where none of it has changed."""
    language = resolve_path(task.model["language"]["path"])
    weights = [resolve_path(file) for file in task.model.get("weights", [])]
    files = sorted(
        file for place in [language, *weights] for file in [place, *place.glob("*")] if file.is_file()
    )
    facts = [
        sha256_of(path) if path is not None else None,
        task.to_dict(),
        split,
        data,
        [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files],
        commit(),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
