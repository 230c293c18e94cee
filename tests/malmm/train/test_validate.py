"""Loss and exact match of a split."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from extraction.visdial import VisDial
from malmm.config import RunConfig, load_task
from malmm.data.visdial import VisDialDataset, build_datasets, collate
from malmm.models.dialogue import DialogueBatch, DialogueConfig, DialogueModel
from malmm.train.validate import score, validate


@pytest.fixture
def parts(here: Path) -> tuple[DialogueModel, VisDialDataset]:
    config = load_task("task.yaml", [], {"dialogue": DialogueConfig})
    return DialogueModel.from_config(config.model), build_datasets(config.datasets["visdial"])["val"]


@pytest.mark.parametrize("size", [1, 4, 100])
def test_loss_is_the_mean_over_answer_tokens_whatever_the_batches(
    parts: tuple[DialogueModel, VisDialDataset], size: int
) -> None:
    model, dataset = parts
    with torch.no_grad():
        expected = model(collate([dataset[i] for i in range(len(dataset))])).loss.item()
    run = RunConfig(batch_size_eval=size, valid_dialogues=0)
    figures = validate(model, dataset, run, Accelerator(cpu=True))
    assert figures == {"loss": pytest.approx(expected, rel=1e-5)}
    assert model.training


@pytest.mark.parametrize("size", [1, 2, 100])
def test_exact_match_counts_normalised_answers_of_the_first_dialogues(
    parts: tuple[DialogueModel, VisDialDataset], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, dataset = parts
    asked: list[int] = []

    def answer(batch: DialogueBatch, **generation: Any) -> list[list[str]]:
        assert generation == {"num_beams": 1, "num_return_sequences": 1, "do_sample": False}
        asked.extend(batch.image_ids)
        return [
            [f" {text}. ".upper() if i == 0 else "?" for i, text in enumerate(row)] for row in batch.answers
        ]

    monkeypatch.setattr(model, "answer", answer)
    figures = validate(
        model, dataset, RunConfig(batch_size_eval=size, valid_dialogues=3), Accelerator(cpu=True)
    )
    rounds = sum(len(dataset[i]["answers"]) for i in range(3))
    assert asked == dataset.image_ids[:3]
    assert figures["exact_match"] == pytest.approx(100 * 3 / rounds)


def test_hidden_answers_do_not_count(
    parts: tuple[DialogueModel, VisDialDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, dataset = parts
    read = VisDial.dialog_answers
    only_first = lambda self, i: [text if r == 0 else None for r, text in enumerate(read(self, i))]  # noqa: E731
    monkeypatch.setattr(VisDial, "dialog_answers", only_first)
    monkeypatch.setattr(model, "answer", lambda batch, **_: [[row[0]] * len(row) for row in batch.answers])
    accelerator = Accelerator(cpu=True)
    assert validate(model, dataset, RunConfig(), accelerator)["exact_match"] == 100
    monkeypatch.setattr(VisDial, "dialog_answers", lambda self, i: [None for _ in read(self, i)])
    assert validate(model, dataset, RunConfig(), accelerator) == {}


def test_score_is_exact_match_and_then_loss() -> None:
    ranking = [
        {"exact_match": 9.0, "loss": 3.0},
        {"exact_match": 9.0, "loss": 2.0},
        {"exact_match": 10.0, "loss": 5.0},
    ]
    assert sorted(ranking, key=score) == ranking
    assert score({"loss": 1.0}) > score({"loss": 2.0})
