"""ScienceQA: multiple choice, with pictures or without."""

import argparse
from dataclasses import replace
from typing import Any

from accelerate import Accelerator

from malmm.config import TaskConfig
from malmm.evaluate.journal import Journal
from malmm.evaluate.report import Report
from malmm.evaluate.scienceqa import evaluate_scienceqa
from malmm.models.checkpoint import restore
from malmm.ready.split import Ready, is_first
from malmm.train.folder import Found
from malmm.train.scienceqa_task import ScienceQATask


def scienceqa_split(
    arguments: argparse.Namespace,
    task: TaskConfig,
    checkpoint: dict[str, Any] | None,
    accelerator: Accelerator | None,
) -> Ready:
    """Multiple choice, with pictures or without."""
    run, science = task.run, ScienceQATask()
    scored = replace(task, run=replace(run, evaluate=True))
    dataset = science.build_datasets(scored, [arguments.split])[arguments.split]
    model = science.build_model(task.model)
    found = None if checkpoint is None else Found(arguments.checkpoint, checkpoint)
    science.check(model, dataset, found)
    if checkpoint is not None:
        restore(model, checkpoint, arguments.checkpoint)
    known = [split for split in run.train_splits if dataset.data.splits.get(split)]

    def ask(journal: Journal) -> Report:
        return evaluate_scienceqa(
            model,
            dataset,
            [problem for split in known for problem in dataset.data.split(split)],
            shuffled=not arguments.no_shuffled,
            batch_size=run.batch_size_eval,
            journal=journal,
            accelerator=accelerator,
            progress=is_first(accelerator),
        )

    return Ready(dataset.facts(), ask)
