"""Checkpoints come back as they were written, and every unusable one is refused with its reason."""

import pickle
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from malmm.errors import InputError
from malmm.models.checkpoint import check_encoder, load_checkpoint, restore, save_checkpoint


class Model:
    """Two tensors that learn, on frozen ones that `fingerprint` stands for."""

    def __init__(self, fingerprint: str = "f", **tensors: Tensor) -> None:
        self.fingerprint = fingerprint
        self.tensors = tensors or {"fc": torch.zeros(2, 3), "pe": torch.zeros(4)}

    def trainable_state(self) -> dict[str, Tensor]:
        return self.tensors

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        self.tensors = dict(state)

    def frozen_fingerprint(self) -> str:
        return self.fingerprint


def content() -> dict[str, Any]:
    return {
        "model": {"fc": torch.rand(2, 3), "pe": torch.rand(4)},
        "frozen_fingerprint": "f",
        "encoder": {"name": "imagebind", "weights_sha256": "a" * 64},
        "config": {"model": {"qformer_weights": "assets/q.pth"}, "datasets": {}, "run": {}},
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}},
            "param_groups": [{"lr": 1e-3, "params": [0]}],
        },
        "scaler": None,
        "epoch": 1,
        "step": 7,
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint_latest.pth"
    save_checkpoint(path, content())
    return path


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path, expected = tmp_path / "c.pth", content()
    save_checkpoint(path, expected)
    found = load_checkpoint(path)
    assert torch.equal(found["model"]["fc"], expected["model"]["fc"])
    assert found["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]
    assert {key: found[key] for key in ("config", "epoch", "step")} == {
        key: expected[key] for key in ("config", "epoch", "step")
    }
    assert [file.name for file in tmp_path.iterdir()] == ["c.pth"]
    model = Model()
    restore(model, found, path)
    assert torch.equal(model.tensors["pe"], expected["model"]["pe"])


def test_a_failed_write_leaves_the_old_checkpoint(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        save_checkpoint(saved, {**content(), "config": {"not to be pickled": lambda: None}})
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_a_full_disk_leaves_the_old_checkpoint(saved: Path) -> None:
    before = saved.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(InputError, match=r"checkpoint_latest\.pth cannot be written .* make room there"):
            save_checkpoint(saved, content())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no checkpoint .*gone\.pth"):
        load_checkpoint(tmp_path / "gone.pth")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_file_at_any_length(saved: Path, share: float) -> None:
    whole = saved.read_bytes()
    cut = saved.with_name("cut.pth")
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"the checkpoint .*cut\.pth is cut short"):
        load_checkpoint(cut)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(min_size=3).filter(lambda noise: not noise.startswith(b"PK")))
def test_any_other_file_is_no_checkpoint(tmp_path: Path, noise: bytes) -> None:
    path = tmp_path / "noise.pth"
    path.write_bytes(noise)
    with pytest.raises(InputError, match=r"noise\.pth is not a checkpoint of this project"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "value", [torch.zeros(3), {"model": {}, "optimizer": {}, "config": {}, "scaler": None, "epoch": 3}]
)
def test_files_of_other_programs_are_no_checkpoints(tmp_path: Path, value: object) -> None:
    """The second is what MA-LMM writes."""
    torch.save(value, tmp_path / "other.pth")
    with pytest.raises(InputError, match="is not a checkpoint of this project"):
        load_checkpoint(tmp_path / "other.pth")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_code_in_a_file_runs(tmp_path: Path) -> None:
    torch.save({**content(), "format_version": 1, "payload": Payload(tmp_path / "ran")}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match="is not a checkpoint of this project"):
        load_checkpoint(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


def test_a_later_format(tmp_path: Path) -> None:
    torch.save({**content(), "format_version": 2}, tmp_path / "later.pth")
    with pytest.raises(InputError, match="has format 2, this version reads 1"):
        load_checkpoint(tmp_path / "later.pth")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            Model(fc=torch.zeros(2, 3), pe=torch.zeros(4), qa=torch.zeros(1)),
            "of another model: it lacks 'qa'",
        ),
        (Model(fc=torch.zeros(2, 3)), "of another model: it holds 'pe', which does not learn here"),
        (Model(fc=torch.zeros(2, 5), pe=torch.zeros(4)), r"'fc' is \[2, 3\] in it and \[2, 5\] here"),
        (
            Model("other"),
            r"trained on other frozen weights \(Q-Former, llm_proj .*qformer_weights assets/q.pth",
        ),
    ],
)
def test_checkpoint_of_another_model_changes_nothing(saved: Path, model: Model, sentence: str) -> None:
    before = dict(model.tensors)
    with pytest.raises(InputError, match=sentence):
        restore(model, load_checkpoint(saved), saved)
    assert model.tensors == before


def test_embeddings_of_another_encoder(saved: Path) -> None:
    checkpoint = load_checkpoint(saved)
    check_encoder(checkpoint, {"name": "imagebind", "weights_sha256": "a" * 64}, saved, "store")
    check_encoder({**checkpoint, "encoder": None}, {"name": "x"}, saved, "store")
    with pytest.raises(
        InputError,
        match=r"another encoder than store: its weights_sha256 is aaaaaaaaaaaaaaaa\.\.\., theirs bb",
    ):
        check_encoder(checkpoint, {"name": "imagebind", "weights_sha256": "b" * 64}, saved, "store")
