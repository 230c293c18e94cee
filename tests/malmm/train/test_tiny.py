"""Making the embedded default: its world, its stages in miniature, and what the project ships."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from extraction.preprocess.image import preprocess_image
from malmm.config import load_model
from malmm.data.mini import draw, make_world_item
from malmm.errors import InputError
from malmm.models.dialogue import DialogueBatch, DialogueConfig, DialogueModel
from malmm.train.tiny import Recipe, Trainer, publish
from malmm.train.tiny_encoder import EncoderRecipe
from malmm.train.tiny_language import LanguageRecipe
from malmm.train.tiny_memory import MemoryRecipe
from malmm.train.tiny_world import NONE, make_world, normalise

MINIATURE = Recipe(
    dialogues=30,
    held_out=10,
    encoder=EncoderRecipe(steps=2, batch_size=4),
    memory=MemoryRecipe(steps=2, batch_size=2),
    language=LanguageRecipe(steps=2, batch_size=2, held_out_dialogues=2),
)


def test_world_holds_what_the_mini_world_says() -> None:
    world = make_world(5, seed=3, image_size=72)
    _, scene, talk = make_world_item("train", 4, seed=3)
    torch.testing.assert_close(normalise(world.pictures[4]), preprocess_image(draw(scene), 72))
    assert [world.texts[i] for i in world.text_ids[4]] == [talk.caption, *(q.question for q in talk.rounds)]
    assert [world.answers[i] for i in world.answer_ids[4]] == [q.answer for q in talk.rounds]
    for thing in scene.objects:
        assert world.cells[4, thing.place].tolist() == [thing.shape + 1, thing.color + 1, thing.size + 1]
    assert (world.cells[4].sum(-1) > 0).sum() == len(scene.objects)
    for question, referent in zip(talk.rounds, world.referent[4].tolist(), strict=True):
        thing = scene.objects[question.referent]
        expected = [NONE] * 3 if question.referent < 0 else [thing.shape, thing.color, thing.place]
        assert referent == expected


def test_stages_run_once_and_their_result_is_what_the_commands_load(
    tmp_path: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Trainer(tmp_path / "work", MINIATURE, gates=False).run()
    lines = [json.loads(line) for line in (tmp_path / "work/training_log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["encoder", "memory", "language"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.safetensors")}
    Trainer(tmp_path / "work", MINIATURE, gates=False).run()
    assert len((tmp_path / "work/training_log.jsonl").read_text().splitlines()) == 3
    stage = tmp_path / "work/stages/dialogue.safetensors"
    assert stage.stat().st_mtime_ns == before[stage]

    publish(tmp_path / "work", tmp_path / "tiny")
    values = load_model(project / "configs/models/dialogue_tiny.yaml", DialogueConfig)
    values["qformer_weights"] = str(tmp_path / "tiny/qformer.safetensors")
    values["language"]["path"] = str(tmp_path / "tiny/llm")
    values["pretrained"] = str(tmp_path / "tiny/dialogue")
    model = DialogueModel.from_config(values)
    saved = (tmp_path / "tiny/dialogue/config.json").read_text()
    assert str(tmp_path) not in saved
    assert model.config.embedding_width == 256
    assert "gate memory" in capsys.readouterr().out


def test_a_missed_gate_stops_the_making(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stage encoder missed its gate"):
        Trainer(tmp_path, MINIATURE).run()


def test_another_recipe_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    Trainer(tmp_path, MINIATURE)._check_recipe()
    with pytest.raises(InputError, match="begun with another recipe"):
        Trainer(tmp_path, dataclasses.replace(MINIATURE, seed=7))._check_recipe()


@pytest.fixture(scope="module")
def shipped(project: Path) -> DialogueModel:
    return DialogueModel.from_config(
        load_model(project / "configs/models/dialogue_tiny.yaml", DialogueConfig)
    )


def test_the_shipped_weights_fit_in_twenty_megabytes_with_their_log(project: Path) -> None:
    files = [path for path in (project / "assets/tiny").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20 * 2**20
    stages = {json.loads(line)["stage"] for line in (project / "assets/tiny/training_log.jsonl").open()}
    assert stages == {"encoder", "memory", "language"}


def test_the_shipped_model_answers_from_the_picture_and_from_memory(
    project: Path, shipped: DialogueModel
) -> None:
    """On dialogues that it never saw: well above itself with the wrong pictures or without memory."""
    from extraction.encoder import Encoder
    from extraction.settings import load_settings

    encoder = Encoder.from_config(load_settings("configs/extraction/mini.yaml").encoder)
    items = [make_world_item("val", index, seed=77) for index in range(30)]
    talks = [talk for _, _, talk in items]
    batch = DialogueBatch(
        image_ids=[image_id for image_id, _, _ in items],
        vision=encoder.encode_images([draw(scene) for _, scene, _ in items]),
        text=torch.stack(
            [encoder.encode_texts([talk.caption, *(q.question for q in talk.rounds)]) for talk in talks]
        ),
        turn_mask=torch.ones(len(items), 11, dtype=torch.bool),
        questions=[[q.question for q in talk.rounds] for talk in talks],
        answers=[[None] * 10 for _ in talks],
    )

    def share(answers: list[list[str]], refers_back: bool | None = None) -> float:
        hits = [
            found == q.answer
            for talk, row in zip(talks, answers, strict=True)
            for q, found in zip(talk.rounds, row, strict=True)
            if refers_back is None or (q.depends_on >= 0) == refers_back
        ]
        return sum(hits) / len(hits)

    seen = shipped.answer(batch)
    blind = shipped.answer(dataclasses.replace(batch, vision=batch.vision.roll(1, 0)))
    assert share(seen) > share(blind) + 0.2
    shipped.config.memory_bank_length = 0
    try:
        alone = shipped.answer(batch)
    finally:
        shipped.config.memory_bank_length = 10
    assert share(seen, refers_back=True) > share(alone, refers_back=True) + 0.1
