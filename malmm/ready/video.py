"""The video benchmarks, and your own videos."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from accelerate import Accelerator

from extraction.files import write_atomically
from malmm.config import TaskConfig
from malmm.data.record import Record
from malmm.data.video import VideoDataset
from malmm.errors import InputError
from malmm.evaluate.floors import training_records
from malmm.evaluate.journal import Journal
from malmm.evaluate.report import Report
from malmm.evaluate.video import evaluate_video, generation_of, upstream_results
from malmm.models.checkpoint import restore
from malmm.ready.split import Ready, is_first
from malmm.train.video_task import VideoTask


def video_split(
    arguments: argparse.Namespace,
    task: TaskConfig,
    checkpoint: dict[str, Any] | None,
    accelerator: Accelerator | None,
) -> Ready:
    """A video benchmark, or your own videos."""
    split, run = arguments.split, task.run
    if arguments.metrics != ["text"] or arguments.submit:
        raise InputError("--metrics and --submit are for dialogues: leave them out")
    scored = replace(task, run=replace(run, evaluate=True))
    videos = VideoTask()
    dataset = videos.build_datasets(scored, [split])[split]
    train = training_records(dataset, run.train_splits)
    labels = _labels(dataset, train) if arguments.rank_labels else None
    model = videos.build_model(task.model)
    videos.check(model, dataset, None)
    if checkpoint is not None:
        restore(model, checkpoint, arguments.checkpoint)

    def ask(journal: Journal) -> Report:
        return evaluate_video(
            model,
            dataset,
            train,
            shuffled=not arguments.no_shuffled,
            batch_size=run.batch_size_eval,
            num_workers=run.num_workers,
            generation=generation_of(dataset.benchmark, run.num_beams, run.max_len, run.min_len),
            labels=labels,
            journal=journal,
            accelerator=accelerator,
            progress=is_first(accelerator),
        )

    def write(report: Report) -> None:
        if arguments.upstream_results:
            content = json.dumps(upstream_results(report, dataset.benchmark)).encode()
            write_atomically(arguments.upstream_results, lambda file: file.write(content))

    return Ready([labels, list(map(str, dataset.records))], ask, write)


def _labels(dataset: VideoDataset, train: Sequence[Record]) -> list[str]:
    if dataset.benchmark.kind != "classification":
        raise InputError(f"--rank-labels is for classes, and {dataset.benchmark.name} has none: leave it out")
    if not train:
        raise InputError("--rank-labels needs the annotations of a training split (run.train_splits)")
    return sorted({record.references[0] for record in train})
