"""Evaluating the memory: hand-computed scores, floors that are floors, and the command on a small world."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from extraction.encoder import Encoder
from extraction.settings import load_settings
from malmm.__main__ import main
from malmm.config import load_model, resolve_path
from malmm.data.locomo import read_locomo
from malmm.data.memory_world import MemoryWorld, read_memory_world, write_memory_world
from malmm.errors import InputError
from malmm.evaluate.memory import evaluate_locomo, evaluate_memory
from malmm.evaluate.memory_run import EMBEDDED, split_options
from malmm.evaluate.memory_scores import MemoryPrediction, interval, score_row
from malmm.evaluate.report import Report
from malmm.memory.settings import MemorySettings
from malmm.models.dialogue import DialogueConfig, DialogueModel


def prediction(evidence: str, found: str, kind: str = "told", back: int = 1, **more) -> MemoryPrediction:
    answer = None if kind == "never" else "red"
    names = tuple(evidence.split()), tuple(found.split())
    return MemoryPrediction("memory", "u", "q", kind, back, "?", answer, *names, **more)


def test_scores_by_hand() -> None:
    row = [
        prediction("a", "a b", prediction="Red."),
        prediction("a", "b c d e a", "picture", back=2, prediction="blue"),
        prediction("a b", "b c d e f a", "picture", back=5, prediction="red"),
        prediction("a", "", "picture", back=3, prediction="green"),
        prediction("", "x", "never", back=0, prediction="red"),
        prediction("", "", "never", back=0, prediction="red"),
    ]
    scores = {score.name: score.value for score in score_row(row)}
    assert scores["recall_1"] == pytest.approx(100 * (1 + 0 + 0.5 + 0) / 4)
    assert scores["recall_5"] == pytest.approx(100 * (1 + 1 + 0.5 + 0) / 4)
    assert scores["recall_10"] == pytest.approx(100 * (1 + 1 + 1 + 0) / 4)
    assert scores["exact_match"] == 50  # `Red.` is `red`, and what was never given cannot be right
    assert scores["exact_match_picture"] == pytest.approx(100 / 3)
    assert scores["exact_match_heard"] == 100
    assert scores["recall_5_distance_2-3"] == 50
    assert scores["recall_10_distance_4+"] == 100
    assert scores["remembered"] == 75
    assert scores["false_remembered"] == 50
    assert "n:4" in {s.name: s.signature for s in score_row(row)}["recall_5"]


def test_interval_draws_whole_users() -> None:
    assert interval({"a": [1.0, 1.0], "b": [1.0]}) == (100, 100)
    low, high = interval({"a": [1.0] * 50, "b": [0.0] * 50})
    assert (low, high) == (0, 100)  # two users, however many questions


def test_options_of_model_and_memory_are_told_apart() -> None:
    words = ["model.max_turns", "5", "memory.recall.k=7", "model.normalize=true"]
    assert split_options(words) == (["model.max_turns", "5", "model.normalize=true"], ["memory.recall.k=7"])
    with pytest.raises(InputError, match="keys begin with model"):
        split_options(["run.seed", "5"])
    with pytest.raises(InputError, match="has no value"):
        split_options(["model.max_turns"])


# -- the embedded default on a small world ---------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> DialogueModel:
    return DialogueModel.from_config(load_model(EMBEDDED, DialogueConfig))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    name = load_model(EMBEDDED, DialogueConfig)["encoder"]
    return Encoder.from_config(load_settings(resolve_path(name)).encoder)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> MemoryWorld:
    folder = tmp_path_factory.mktemp("world")
    return read_memory_world(write_memory_world(folder, users=2, conversations=4, questions=4, seed=11))


@pytest.fixture(scope="module")
def report(world, model, encoder) -> Report:
    return evaluate_memory(world, model, encoder, MemorySettings(), ablation=True, progress=False)


def test_nothing_of_the_future_is_found(world, report) -> None:
    times = {item.id: item.time for user in world.users for item in user.items}
    asked = {question.id: question.time for user in world.users for question in user.questions}
    found = [(p, name) for p in report.lines["memory_predictions.jsonl"] for name in p.found]
    assert len({p.row for p, _ in found}) > 10
    for p, name in found:
        assert times[name] < asked[p.question_id]
        assert name.startswith(p.user)


def test_floors_and_ceiling_are_where_they_must_be(world, report) -> None:
    rows = report.metrics()
    assert rows["no memory"]["recall_10"] == rows["no memory"]["remembered"] == 0
    assert rows["no memory"]["false_remembered"] == 0
    assert rows["evidence given"]["recall_1"] == 100
    assert rows["evidence given"]["exact_match_shown"] > rows["no memory"]["exact_match_shown"]
    # The evidence lies in an earlier conversation: the last item never is it.
    assert rows["recency only"]["recall_1"] == rows["last 10 turns"]["recall_1"] == 0
    assert 0 < rows["embedding only"]["recall_10"] < 100
    assert {
        "always something",
        "relevance",
        "+ recency gate",
        "+ frequency 0.1",
        "+ saliency 0.1",
        "+ BM25",
    } <= rows.keys()
    assert set(report.signatures()) >= set(rows["memory"])
    assert report.counts == {"questions": 2 * 3 * 4, "users": 2}


def test_the_right_picture_given_is_answered_as_by_the_model_itself(world, model, encoder, report) -> None:
    pictures = {item.id: item for user in world.users for item in user.items if item.picture}
    given = [
        p
        for p in report.lines["memory_predictions.jsonl"]
        if p.row == "evidence given" and p.kind.startswith("picture")
    ]
    plain = {question.id: question.question for user in world.users for question in user.questions}
    assert given
    for p in given[:5]:
        item = pictures[p.evidence[0]]
        vision = encoder.encode_images([world.folder / item.picture])
        state = model.init_state()
        _, state = model.observe(vision, encoder.encode_texts([item.text]), state)
        queries, _ = model.observe(vision, encoder.encode_texts([plain[p.question_id]]), state)
        assert model.generate(queries, [plain[p.question_id]]) == [p.prediction]


def test_a_memory_that_recalls_nothing_is_reported_at_its_floor(world, model, encoder) -> None:
    settings = MemorySettings()
    blind = replace(settings, recall=replace(settings.recall, min_relevance=1.0, min_relevance_across=1.0))
    rows = evaluate_memory(world, model, encoder, blind, progress=False).metrics()
    assert rows["memory"] == rows["no memory"]
    assert rows["memory"]["remembered"] == 0


def test_a_memory_of_words_alone_is_the_bm25_floor(world, model, encoder) -> None:
    settings = MemorySettings()
    words = replace(settings.recall, hybrid="bm25", gate=False, duplicates=1.0, known_words=0.0)
    rows = evaluate_memory(world, model, encoder, replace(settings, recall=words), progress=False).metrics()
    chosen = {name for name in rows["memory"] if name.startswith("exact_match")}  # pictures: by embedding
    for name in rows["memory"].keys() - chosen:
        assert rows["memory"][name] == rows["BM25 only"][name]
    assert 0 < rows["memory"]["recall_10"] < 100


# -- LoCoMo ----------------------------------------------------------------------------------------------


def test_locomo_recall_by_hand(tmp_path, encoder) -> None:
    """Of twelve turns BM25 finds those that share a word with the question; recency the last five."""
    texts = ["the boat is green", *(f"filler number {n}" for n in range(9)), "a cat", "so long"]
    turns = [{"speaker": "A", "dia_id": f"D1:{n}", "text": text} for n, text in enumerate(texts, 1)]
    conversation = {
        "speaker_a": "A", "speaker_b": "B", "session_1": turns,
        "session_1_date_time": "1:56 pm on 8 May, 2023",
    }  # fmt: skip
    qa = [
        {"question": "boat green?", "answer": "x", "evidence": ["D1:1"], "category": 4},
        {"question": "cat?", "answer": "x", "evidence": ["D1:11; D1:2"], "category": 1},
        {"question": "dog?", "answer": "x", "evidence": ["D1:12"], "category": 4},
        {"question": "nothing?", "answer": "x", "evidence": [], "category": 3},
    ]
    (tmp_path / "f.json").write_text(json.dumps([{"sample_id": "c", "conversation": conversation, "qa": qa}]))
    report = evaluate_locomo(read_locomo(tmp_path / "f.json"), encoder, MemorySettings(), progress=False)
    rows = report.metrics()
    assert report.counts == {"questions": 3, "conversations": 1}
    assert rows["BM25 only"]["recall_5"] == pytest.approx(100 * (1 + 0.5 + 0) / 3)
    assert rows["BM25 only"]["recall_5_single-hop"] == 50
    assert rows["BM25 only"]["recall_5_multi-hop"] == 50
    assert rows["recency only"]["recall_5"] == pytest.approx(100 * (0 + 0.5 + 1) / 3)  # D1:8 to D1:12
    assert rows["recency only"]["recall_10"] == pytest.approx(100 * (0 + 0.5 + 1) / 3)
    assert "exact_match" not in rows["memory"]
    assert any(note.startswith("1 questions without evidence") for note in report.notes)


# -- the command -----------------------------------------------------------------------------------------


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "malmm", "evaluate", "memory", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_command_writes_results_that_can_be_repeated(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sizes = ("--users", "1", "--conversations", "3", "--questions", "3", "--seed", "4")
    done = run("--out", str(out), *sizes, "--options", "memory.recall.k", "3")
    assert done.returncode == 0, done.stderr
    assert "evidence given" in done.stdout and "recency only" in done.stdout
    results = json.loads((out / "results.json").read_text())
    assert results["seed"] == 4
    assert results["configuration"]["memory"]["recall"]["k"] == 3
    assert "evaluate memory" in results["command"]
    assert {"commit", "versions", "date", "signatures"} <= results.keys()
    assert results["metrics"]["no memory"]["recall_10"] == 0
    lines = (out / "memory_predictions.jsonl").read_text().splitlines()
    assert len(lines) == 6 * len(results["metrics"])


def test_what_cannot_be_used_ends_with_one_sentence(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "memory", "--out", str(tmp_path), "--locomo", str(tmp_path / "absent.json")])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert "absent.json" in said
