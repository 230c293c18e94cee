"""What a conversation is loaded from: configuration, checkpoint, folder of save_pretrained."""

from pathlib import Path
from typing import Any

import pytest
import torch

from extraction.errors import InputError as ExtractionInputError
from malmm.chat.loading import load_session
from malmm.chat.session import ChatSession
from malmm.config import load_model
from malmm.errors import InputError
from malmm.models.checkpoint import save_checkpoint
from malmm.models.dialogue import DialogueConfig


def taught(parts: Path) -> ChatSession:
    """A session whose learned layers are not those that the configuration gives."""
    session = load_session(parts / "model.yaml")
    generator = torch.Generator().manual_seed(1)
    for value in session.model.trainable_state().values():
        value.copy_(torch.randn(value.shape, generator=generator))
    return session


def checkpoint_of(session: ChatSession, parts: Path, path: Path, **changes: Any) -> Path:
    checkpoint = {
        "model": session.model.trainable_state(),
        "frozen_fingerprint": session.model.frozen_fingerprint(),
        "encoder": session.encoder.identity(),
        "config": {"model": load_model(parts / "model.yaml", DialogueConfig), "datasets": {}, "run": {}},
        "epoch": 1,
        "step": 1,
    }
    save_checkpoint(path, {**checkpoint, **changes})
    return path


def same_layers(one: ChatSession, other: ChatSession) -> bool:
    theirs = other.model.trainable_state()
    return all(torch.equal(value, theirs[name]) for name, value in one.model.trainable_state().items())


def test_a_checkpoint_brings_its_layers_and_its_configuration(parts: Path, tmp_path: Path) -> None:
    session = taught(parts)
    path = checkpoint_of(session, parts, tmp_path / "checkpoint_latest.pth")
    loaded = load_session(checkpoint=path)
    assert same_layers(loaded, session)
    assert not same_layers(load_session(parts / "model.yaml"), session)
    shorter = load_session(checkpoint=path, options=["model.memory_bank_length", "1"])
    assert shorter.model.config.memory_bank_length == 1
    assert same_layers(shorter, session)
    assert same_layers(load_session(parts / "model.yaml", path), session)


def test_a_folder_of_save_pretrained(parts: Path, tmp_path: Path) -> None:
    session = taught(parts)
    session.model.save_pretrained(tmp_path / "mine")
    assert same_layers(load_session(checkpoint=tmp_path / "mine"), session)
    assert same_layers(load_session(parts / "model.yaml", tmp_path / "mine"), session)


def test_the_language_models_folder_can_be_named(parts: Path, tmp_path: Path) -> None:
    moved = tmp_path / "llama"
    moved.symlink_to(parts / "llama")
    session = load_session(parts / "model.yaml", llm_model_path=str(moved))
    assert session.model.config.language.path == str(moved)


def test_what_does_not_fit_is_refused(parts: Path, tmp_path: Path) -> None:
    session = taught(parts)
    other_encoder = {**session.encoder.identity(), "weights_sha256": "0" * 64}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"encoder": other_encoder}, "another encoder than .*extraction.yaml has: set model.encoder"),
        ({"frozen_fingerprint": "0" * 64}, "trained on other frozen weights"),
        ({"model": {"imagebind_fc.weight": torch.zeros(3)}}, "is of another model"),
    ]
    for number, (changes, sentence) in enumerate(cases):
        path = checkpoint_of(session, parts, tmp_path / f"{number}.pth", **changes)
        with pytest.raises(InputError, match=sentence):
            load_session(checkpoint=path)


def test_wrong_names_are_told(parts: Path, tmp_path: Path) -> None:
    path = checkpoint_of(taught(parts), parts, tmp_path / "c.pth")
    with pytest.raises(InputError, match="'run' is no section of the chat"):
        load_session(checkpoint=path, options=["run.seed", "1"])
    with pytest.raises(InputError, match=r"there is no .*config\.json"):
        load_session(checkpoint=tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json is not valid JSON"):
        load_session(checkpoint=tmp_path)
    with pytest.raises(InputError, match=r"model\.encoder names no extraction configuration"):
        load_session(parts / "model.yaml", options=["model.encoder", "null"])
    with pytest.raises(ExtractionInputError, match=r"nowhere\.yaml"):
        load_session(parts / "model.yaml", options=["model.encoder", "nowhere.yaml"])
