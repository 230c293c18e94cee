"""Dialogues: text metrics, ranking of the options, human answer sets, controls."""

import argparse
from typing import Any

from accelerate import Accelerator

from extraction.visdial import read_visdial
from malmm.config import TaskConfig, VisDialConfig, resolve_path
from malmm.data.mini import rounds_that_refer_back
from malmm.data.visdial import VisDialDataset, build_datasets
from malmm.errors import InputError
from malmm.evaluate.candidates import FILE as RANKS
from malmm.evaluate.candidates import empty_report, rank_options
from malmm.evaluate.controls import all_controls
from malmm.evaluate.dialogue import evaluate_dialogue
from malmm.evaluate.human import AnswerSets, add_human_scores, judged_answer_sets, read_answer_sets
from malmm.evaluate.journal import Journal
from malmm.evaluate.report import Report
from malmm.evaluate.submission import write_submission
from malmm.models.checkpoint import check_encoder, restore
from malmm.models.dialogue import DialogueModel
from malmm.ready.split import Ready, is_first

METRICS = ("text", "ranking", "human", "all")


def dialogue_split(
    arguments: argparse.Namespace,
    task: TaskConfig,
    checkpoint: dict[str, Any] | None,
    accelerator: Accelerator | None,
) -> Ready:
    """Dialogues of VisDial, or what comes in its format."""
    path, split = arguments.checkpoint, arguments.split
    if arguments.rank_labels or arguments.upstream_results:
        raise InputError("--rank-labels and --upstream-results are for videos: leave them out")
    if "visdial" not in task.datasets:
        raise InputError("a dialogue model is scored on datasets.visdial, which is not configured: add it")
    data: VisDialConfig = task.datasets["visdial"]
    metrics = _metrics(arguments)
    dataset = build_datasets(data, [split], answer_options=metrics != {"text"})[split]
    human = _answer_sets(data, split, dataset) if "human" in metrics else None
    if checkpoint is not None:
        check_encoder(checkpoint, dataset.store.manifest["encoder"], path, dataset.store.folder)
    model = DialogueModel.from_config(task.model)
    if checkpoint is not None:
        restore(model, checkpoint, path)

    def ask(journal: Journal) -> Report:
        train = _train_answers(task)
        how: dict[str, Any] = {
            "shuffled": not arguments.no_shuffled,
            "batch_size": task.run.batch_size_eval,
            "journal": journal,
            "accelerator": accelerator,
            "progress": is_first(accelerator),
        }
        if metrics == {"ranking"}:
            report = empty_report(dataset)
        else:
            controls = all_controls() if arguments.controls else ()
            refers_back = rounds_that_refer_back(resolve_path(data.annotations[split]))
            report = evaluate_dialogue(
                model, dataset, train, controls=controls, refers_back=refers_back, **how
            )
        if human is not None:
            add_human_scores(report, human)
        if "ranking" in metrics:
            rank_options(model, dataset, report, train, **how)
        if split in task.run.train_splits and train:
            report.notes.append(f"{split} is a training split: the image-blind prior has seen its answers")
        if drawn := dataset.store.manifest.get("placeholder_images"):
            report.notes.append(
                f"{drawn} of the pictures are placeholders, which show nothing of the photographs"
            )
        return report

    def write(report: Report) -> None:
        if arguments.submit:
            write_submission(arguments.submit, report.lines[RANKS], dataset.annotations)

    return Ready(dataset.store.manifest, ask, write)


def _metrics(arguments: argparse.Namespace) -> set[str]:
    """What `--metrics` and `--submit` ask for, without `all`."""
    chosen = set(arguments.metrics) | ({"ranking"} if arguments.submit else set())
    return {"text", "ranking", "human"} if "all" in chosen else chosen


def _answer_sets(data: VisDialConfig, split: str, dataset: VisDialDataset) -> AnswerSets:
    """The answers that people found right, from the file that is configured or the dense relevance."""
    if split in data.human:
        return read_answer_sets(resolve_path(data.human[split]), dataset)
    return judged_answer_sets(dataset)


def _train_answers(task: TaskConfig) -> list[tuple[str, str]]:
    """(question, answer) of every training round, those of the splits whose annotations are at hand."""
    annotations = task.datasets["visdial"].annotations
    files = [resolve_path(annotations[split]) for split in task.run.train_splits if split in annotations]
    pairs: list[tuple[str, str]] = []
    for file in files:
        if file.is_file():
            train = read_visdial(file, answer_options=False)
            for i in range(len(train)):
                rounds = zip(train.dialog_questions(i), train.dialog_answers(i), strict=True)
                pairs += [(question, answer) for question, answer in rounds if answer is not None]
    return pairs
