"""`python evaluate.py` on a mini world with random embeddings and a tiny random model."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import save_tiny_llama

from evaluate import main
from extraction.store_writer import StoreWriter
from extraction.visdial import plan, read_visdial
from malmm.data.mini import write_world
from malmm.models.checkpoint import save_checkpoint
from malmm.models.dialogue import DialogueModel

WIDTH = 8
ENCODER = {"name": "random", "weights_sha256": "0" * 64}
SPLITS = ("train", "val", "test")


def write_store(annotations: Path, folder: Path) -> None:
    wanted = plan(read_visdial(annotations), annotations)
    sizes = {"vision": len(wanted.image_ids), "text": len(wanted.texts)}
    header = {
        "encoder": ENCODER,
        "annotations": {"file": annotations.name, "sha256": wanted.digest},
        "placeholder_images": 0 if folder.name == "val" else 3,
        "modalities": {kind: {"width": WIDTH, "dtype": "float16"} for kind in sizes},
    }
    with StoreWriter(folder, header) as writer:
        for kind, rows in sizes.items():
            writer.write(kind, 0, ids=torch.arange(rows), embeddings=torch.randn(rows, WIDTH).half())
        row_of = {image_id: row for row, image_id in enumerate(wanted.image_ids)}
        rows = torch.tensor([row_of[i] for i in wanted.dialog_ids.tolist()])
        dialogs = {"ids": wanted.dialog_ids, "vision": rows, "text": wanted.dialog_texts}
        writer.finish(dialogs, {"vision": 1, "text": 1}, [])


def write_checkpoint(path: Path, config: dict[str, Any], **entries: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    model = DialogueModel.from_config(config["model"])
    learned = {"model": model.trainable_state(), "frozen_fingerprint": model.frozen_fingerprint()}
    save_checkpoint(path, {**learned, "config": config, "encoder": ENCODER, "epoch": 1, "step": 2, **entries})
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("evaluate")
    torch.manual_seed(0)
    world = write_world(folder / "world", train=20, val=8, test=3)
    annotations = {split: str(world / f"visdial_1.0_{split}.json") for split in SPLITS}
    for split, file in annotations.items():
        write_store(Path(file), folder / "store" / split)
    llama = save_tiny_llama(folder / "llama", 32, 64)
    qformer = {
        "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32,
        "encoder_width": 16, "num_query_token": 2, "vocab_size": None,
    }  # fmt: skip
    language = {"path": str(llama), "precision": "fp32", "device": "cpu"}
    generation = {"max_new_tokens": 4}
    model = {
        "arch": "dialogue", "model_type": "tiny", "embedding_width": WIDTH,
        "qformer": qformer, "language": language, "generation": generation,
    }  # fmt: skip
    data = {"type": "mini", "store": str(folder / "store"), "annotations": annotations}
    return {"model": model, "datasets": {"visdial": data}, "run": {"batch_size_eval": 2}}


@pytest.fixture(scope="module")
def checkpoint(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint_latest.pth", config)


def command(project: Path, *arguments: object) -> list[str]:
    return [sys.executable, str(project / "evaluate.py"), *map(str, arguments)]


def read_predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_the_command_prints_the_table_and_writes_the_files(
    project: Path, checkpoint: Path, config: dict[str, Any], tmp_path: Path
) -> None:
    # From another folder, as the project's users may call it.
    language = config["model"]["language"]["path"]
    run = subprocess.run(
        command(project, "--checkpoint", checkpoint, "--llm_model_path", language),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    for row in ("model ", "model, pictures shuffled", "image-blind prior", "always yes"):
        assert sum(line.strip().startswith(row) for line in run.stdout.splitlines()) == 1
    assert "80 rounds of 8 dialogues" in run.stdout
    assert "BLEU-4: sacrebleu|order:4|nrefs:1" in run.stdout
    output = checkpoint.parent / "evaluate_val"
    assert sorted(path.name for path in output.iterdir()) == ["predictions.jsonl", "results.json"]
    results = json.loads((output / "results.json").read_text())
    assert results["split"] == "val"
    assert results["command"] == f"python evaluate.py --checkpoint {checkpoint} --llm_model_path {language}"
    assert results["configuration"]["model"]["language"]["path"] == language
    answers = [row["answer"] for row in read_predictions(output)]
    # The floors are those of the annotation file, whatever the model says.
    assert results["metrics"]["always yes"]["exact_match"] == pytest.approx(100 * answers.count("yes") / 80)
    assert results["metrics"]["image-blind prior"]["exact_match"] > 15


def test_predictions_are_those_of_the_annotations_rounds(
    checkpoint: Path, config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--checkpoint", str(checkpoint), "--output", str(tmp_path)]) == 0
    val = read_visdial(config["datasets"]["visdial"]["annotations"]["val"])
    expected = [
        (val.image_id(i), number, question, answer)
        for i in range(len(val))
        for number, (question, answer) in enumerate(
            zip(val.dialog_questions(i), val.dialog_answers(i), strict=True), 1
        )
    ]
    rows = read_predictions(tmp_path)
    assert [(r["image_id"], r["round"], r["question"], r["answer"]) for r in rows] == expected
    assert len({r["prediction"] for r in rows}) > 1


def test_a_killed_evaluation_goes_on_and_gives_the_same(
    project: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", str(checkpoint), "--split", "train", "--output"]
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    partial = tmp_path / "killed" / "predictions.partial.jsonl"
    process = subprocess.Popen(command(project, *arguments, tmp_path / "killed"))
    while not (partial.exists() and partial.read_bytes().count(b"\n") >= 4):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = partial.read_bytes().count(b"\n") - 1
    assert not (tmp_path / "killed" / "predictions.jsonl").exists()
    assert main([*arguments, str(tmp_path / "killed")]) == 0
    assert f"going on after {done} batches" in capsys.readouterr().out
    whole, killed = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in ("whole", "killed"))
    assert whole == killed
    metrics = [
        json.loads((tmp_path / name / "results.json").read_text())["metrics"] for name in ("whole", "killed")
    ]
    assert metrics[0] == metrics[1]
    assert not partial.exists()


def test_other_options_do_not_go_on_from_old_answers(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = tmp_path / "predictions.partial.jsonl"
    row = {"run": "model", "batch": 0, "answers": [["stale"] * 10] * 2}
    partial.write_text(json.dumps({"key": "0" * 64}) + "\n" + json.dumps(row) + "\n")
    options = ["--options", "model.generation.max_new_tokens", "1", "run.batch_size_eval=4"]
    assert main(["--checkpoint", str(checkpoint), "--output", str(tmp_path), *options]) == 0
    assert "stale" not in (tmp_path / "predictions.jsonl").read_text()
    stored = json.loads((tmp_path / "results.json").read_text())["configuration"]
    assert stored["model"]["generation"] == {"max_new_tokens": 1}
    assert stored["run"]["batch_size_eval"] == 4


def test_hidden_answers_give_predictions_only(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--checkpoint", str(checkpoint), "--split", "test", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "answers are hidden: predictions only, no scores" in out
    assert "3 of the pictures are placeholders" in out
    assert "sacrebleu" not in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["metrics"] == {}
    assert [row["answer"] for row in read_predictions(tmp_path)].count(None) == 3


def refuse(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence that the command ends with."""
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_unusable_checkpoints_are_named(
    config: dict[str, Any], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "no.pth"
    assert f"there is no checkpoint {missing}" in refuse(capsys, "--checkpoint", missing)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(checkpoint.read_bytes()[:2000])
    assert f"{cut} is cut short" in refuse(capsys, "--checkpoint", cut)
    video = {**config, "model": {**config["model"], "arch": "video"}}
    other = write_checkpoint(tmp_path / "arch.pth", video)
    assert f"{other} is of another model" in refuse(capsys, "--checkpoint", other)
    tensors = {"turn_pe.weight": torch.zeros(11, 16)}
    other = write_checkpoint(tmp_path / "tensors.pth", config, model=tensors)
    assert f"{other} is of another model" in refuse(capsys, "--checkpoint", other)
    stranger = write_checkpoint(tmp_path / "encoder.pth", config, encoder={**ENCODER, "name": "imagebind"})
    assert "another encoder" in refuse(capsys, "--checkpoint", stranger)


def test_unusable_arguments_are_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--checkpoint", checkpoint, "--output", tmp_path / "out")
    error = refuse(capsys, *given, "--split", "dev")
    assert "'dev'" in error
    assert "train, val, test" in error
    assert "model.embedding_width" in refuse(capsys, *given, "--options", "model.embeding_width", "8")
    assert "no value" in refuse(capsys, *given, "--options", "run.batch_size_eval")
    assert "model is 3" in refuse(capsys, *given, "--options", "model", "3")
    file = tmp_path / "file"
    file.touch()
    assert f"written to {file}" in refuse(capsys, "--checkpoint", checkpoint, "--output", file)
    nowhere = tmp_path / "nowhere" / "llama"
    assert str(nowhere) in refuse(capsys, *given, "--llm_model_path", nowhere)
    assert not (tmp_path / "out").exists()


def test_a_language_model_without_tokenizer_or_of_another_size_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_tiny_llama(tmp_path / "llama", 64, 64)
    capsys.readouterr()
    assert "other frozen weights" in refuse(capsys, "--checkpoint", checkpoint, "--llm_model_path", other)
    for file in other.glob("tokenizer*"):
        file.unlink()
    error = refuse(capsys, "--checkpoint", checkpoint, "--llm_model_path", other)
    assert "tokenizer" in error
    assert str(other) in error
