"""What an evaluation of the memory ends with: tables over all questions, by kind and by distance."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from rich.console import Console

from malmm.evaluate.breakdown import paired_difference
from malmm.evaluate.memory_rows import BM25, EMBEDDING, LAST_TURNS, MEMORY, NOTHING, RECENCY
from malmm.evaluate.memory_scores import DISTANCES, MemoryPrediction, interval, score_row
from malmm.evaluate.report import Report, scores_table

COLUMNS = {
    "recall_1": "evidence\nat 1",
    "recall_5": "evidence\nat 5",
    "recall_10": "evidence\nat 10",
    "exact_match_shown": "match,\nshown",
    "exact_match_heard": "match,\ntold",
    "remembered": "remem-\nbered",
    "false_remembered": "falsely\nremembered",
}
PREDICTIONS = "memory_predictions.jsonl"


def world_report(predictions: Sequence[MemoryPrediction], questions: int) -> Report:
    """Of the generated world; predictions: every row's, of `questions` questions."""
    report = _report(predictions, {"questions": questions, "users": len({p.user for p in predictions})})
    kinds = [kind for kind in dict.fromkeys(p.kind for p in predictions) if kind != "never"]
    for score, heading in (("recall_5", "at 5"), ("exact_match", "match")):
        report.further_columns.append({f"{score}_{kind}": f"{heading}\n{kind}" for kind in kinds})
        report.further_columns.append(
            {f"{score}_distance_{name}": f"{heading}\n{name} back" for name in DISTANCES}
        )
    report.notes.extend(
        (
            "back: conversations since the newest that has the answer",
            "a question about a picture is asked with nothing before the model but what is remembered; "
            f"`{NOTHING}` has the last picture of the present conversation, `{LAST_TURNS}` a bank of turns",
            "what was told is read from reminders by the language model; the embedded default was never "
            "trained to read any",
        )
    )
    return report


def locomo_report(
    predictions: Sequence[MemoryPrediction], questions: int, dangling: int, context_length: int
) -> Report:
    """Of a file in LoCoMo's format; predictions: every row's to the questions that have evidence."""
    asked = sum(p.row == MEMORY for p in predictions)
    counts = {"questions": asked, "conversations": len({p.user for p in predictions})}
    report = _report(predictions, counts, depths=(5, 10))
    kinds = sorted({p.kind for p in predictions})
    for depth in (5, 10):
        report.further_columns.append({f"recall_{depth}_{kind}": f"at {depth}\n{kind}" for kind in kinds})
    report.notes.extend(
        (
            f"{questions - asked} questions without evidence and {dangling} ids of evidence that no turn has "
            "are left out; photos are there as their captions",
            f"the text encoder reads the first {context_length} tokens of a turn, BM25 reads all",
        )
    )
    return report


def show(report: Report, title: str, console: Console) -> None:
    """Print the tables, then how the scores of the first are computed, and the notes."""
    counts = " of ".join(f"{count} {name}" for name, count in report.counts.items())
    _line(console, f"{title}: {counts}, in percent")
    metrics, signatures = report.metrics(), report.signatures()
    for columns in (report.columns, *report.further_columns):
        rows = {name: row for name, row in metrics.items() if columns.keys() & row.keys()}
        if rows:
            console.print(scores_table(rows, columns))
    for name, heading in report.columns.items():
        if name in signatures:
            _line(console, f"{heading}: {signatures[name]}".replace("\n", " "))
    for note in report.notes:
        _line(console, f"note: {note}")


def _report(
    predictions: Sequence[MemoryPrediction], counts: dict[str, int], depths: Sequence[int] = (1, 5, 10)
) -> Report:
    report = Report([], counts, COLUMNS, lines={PREDICTIONS: predictions})
    by_row: dict[str, list[MemoryPrediction]] = defaultdict(list)
    for prediction in predictions:
        by_row[prediction.row].append(prediction)
    for row, own in by_row.items():
        report.add_scores(row, score_row(own, depths))
    ours = [p for p in by_row[MEMORY] if p.evidence]
    if not ours:
        return report
    low, high = interval(_by_user((p.user, p.recall(5)) for p in ours))
    report.notes.append(
        f"{MEMORY}: evidence at 5 is within {low:.1f} to {high:.1f} (95 %, users drawn again)"
    )
    best = max((BM25, EMBEDDING, RECENCY), key=lambda row: report.metrics()[row]["recall_5"])
    theirs = [p for p in by_row[best] if p.evidence]
    found, found_by_best = ([p.recall(5) == 1 for p in row] for row in (ours, theirs))
    difference = paired_difference(found, found_by_best, [p.user for p in ours])
    report.notes.append(
        f"{MEMORY} beside the best floor, {best}: all evidence at 5 for {difference.points:+.1f} points more "
        f"of the questions, 95 % interval {difference.low:+.1f} to {difference.high:+.1f}"
    )
    return report


def _by_user(values: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for user, value in values:
        found[user].append(value)
    return found


def _line(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
