"""Answering every round of a VisDial split, and the scores of the answers beside their floors.

Three floors stand beside the model: the same model with the pictures exchanged between the dialogues (what
is left without the right picture), the most frequent training answer to the question's first two words, and
"yes".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from malmm.data.visdial import VisDialDataset, collate
from malmm.evaluate.journal import Journal
from malmm.evaluate.text import AlwaysYes, ImageBlindPrior, Score, corpus_bleu, score_answers
from malmm.models.dialogue import DialogueBatch, DialogueModel

MODEL = "model"
SHUFFLED = "model, pictures shuffled"
PRIOR = "image-blind prior"
YES = "always yes"
COLUMNS = {
    "corpus_bleu_1": "BLEU-1",
    "corpus_bleu_2": "BLEU-2",
    "corpus_bleu_3": "BLEU-3",
    "corpus_bleu_4": "BLEU-4",
    "sentence_bleu_4": "sentence\nBLEU-4",
    "exact_match": "exact\nmatch",
    "exact_match_normalised": "match,\nnormal.",
}


@dataclass(frozen=True)
class Prediction:
    """One round: `round` counts from 1, `answer` is None where the split hides it."""

    image_id: int
    round: int
    question: str
    answer: str | None
    prediction: str


@dataclass(frozen=True)
class Report:
    """What the model answered, the scores of each row of the table, and what to know about them."""

    predictions: list[Prediction]
    rows: dict[str, list[Score]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def metrics(self) -> dict[str, dict[str, float]]:
        """The scores in percent, by row and name."""
        return {row: {score.name: score.value for score in scores} for row, scores in self.rows.items()}

    def signatures(self) -> dict[str, str]:
        """How each score was computed, by its name."""
        return {score.name: score.signature for scores in self.rows.values() for score in scores}

    def show(self, title: str, console: Console) -> None:
        """Print the rows as a table, with the signatures and the notes below it."""
        dialogues = len({p.image_id for p in self.predictions})
        unit = ", in percent" if self.rows else ""
        _print_line(console, f"{title}: {len(self.predictions)} rounds of {dialogues} dialogues{unit}")
        if self.rows:
            console.print(scores_table(self.metrics()))
            for name, signature in self.signatures().items():
                if name in COLUMNS:
                    _print_line(console, f"{COLUMNS[name]}: {signature}".replace("\n", " "))
        for note in self.notes:
            _print_line(console, f"note: {note}")


def scores_table(rows: Mapping[str, Mapping[str, float]]) -> Table:
    """The table of some rows, each with its scores by name as `results.json` has them under `metrics`."""
    table = Table("", box=box.SIMPLE_HEAD, padding=0)
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for name, values in rows.items():
        table.add_row(name, *(f"{values[column]:.1f}" for column in COLUMNS))
    return table


def _print_line(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def evaluate_dialogue(
    model: DialogueModel,
    dataset: VisDialDataset,
    train_answers: Sequence[tuple[str, str]] | None = None,
    *,
    floors: bool = True,
    batch_size: int = 16,
    generation: dict[str, Any] | None = None,
    journal: Journal | None = None,
    progress: bool = True,
    seed: int = 0,
) -> Report:
    """Answer every round of `dataset` and score the answers.

    train_answers: (question, answer) pairs of the training split, for the image-blind prior.
    floors: False leaves the three floors out. generation: overrides the model's own settings.
    journal: keeps the answers of finished batches and gives those of an earlier run.
    seed: chooses which picture a dialogue gets in the shuffled row.
    A split that hides answers gets predictions and no scores.
    """
    answerer = _Answerer(model, batch_size, generation or {}, journal)
    with _progress(progress) as bar:
        predictions = answerer.predict(dataset, MODEL, bar)
        hidden = sum(p.answer is None for p in predictions)
        if hidden:
            note = f"{hidden} of the {len(predictions)} answers are hidden: predictions only, no scores"
            return Report(predictions, notes=[note])
        references = [p.answer or "" for p in predictions]
        report = Report(predictions, {MODEL: score_answers([p.prediction for p in predictions], references)})
        if empty := [n for n in (2, 3, 4) if corpus_bleu(references, references, n).value == 0]:
            report.notes.append(f"no answer is long enough for BLEU-{empty[0]}: it is 0 whatever is answered")
        if not floors:
            return report
        if len(dataset) > 1:
            shuffled = answerer.predict(dataset.shuffled_pictures(seed), SHUFFLED, bar)
            report.rows[SHUFFLED] = score_answers([p.prediction for p in shuffled], references)
        else:
            report.notes.append("one dialogue only: there is no other picture to shuffle with")
    blind: dict[str, Callable[[str], str]] = {YES: AlwaysYes().answer}
    if train_answers:
        blind = {PRIOR: ImageBlindPrior.fit(train_answers).answer, **blind}
    else:
        report.notes.append("no training answers: the image-blind prior is left out")
    for name, answer in blind.items():
        report.rows[name] = score_answers([answer(p.question) for p in predictions], references)
    return report


@dataclass(frozen=True)
class _Answerer:
    model: DialogueModel
    batch_size: int
    generation: dict[str, Any]
    journal: Journal | None

    def predict(self, dataset: VisDialDataset, run: str, bar: Progress) -> list[Prediction]:
        """Every round of every dialogue in order; batches that the journal holds are taken from there."""
        task = bar.add_task(run, total=len(dataset))
        predictions: list[Prediction] = []
        was_training = self.model.training
        self.model.eval()
        try:
            for number, start in enumerate(range(0, len(dataset), self.batch_size)):
                items = [dataset[i] for i in range(start, min(start + self.batch_size, len(dataset)))]
                batch = collate(items)
                predictions += _rounds(batch, self._answers(batch, run, number))
                bar.advance(task, len(items))
        finally:
            self.model.train(was_training)
        return predictions

    def _answers(self, batch: DialogueBatch, run: str, number: int) -> list[list[str]]:
        if self.journal is not None and (known := self.journal.get(run, number)) is not None:
            return known
        answers = self.model.answer(batch.to(self.model.language.device), **self.generation)
        if self.journal is not None:
            self.journal.add(run, number, answers)
        return answers


def _rounds(batch: DialogueBatch, answers: list[list[str]]) -> list[Prediction]:
    return [
        Prediction(image_id, number, question, answer, prediction)
        for image_id, questions, truths, predicted in zip(
            batch.image_ids, batch.questions, batch.answers, answers, strict=True
        )
        for number, (question, answer, prediction) in enumerate(
            zip(questions, truths, predicted, strict=True), 1
        )
    ]


def _progress(shown: bool) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), disable=not shown)
