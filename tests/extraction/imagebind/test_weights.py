"""Weights from files: what is loaded, what is refused, and which keys a refusal names."""

import hashlib
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from extraction.errors import InputError
from extraction.imagebind import MODALITIES, ImageBind, ImageBindConfig
from extraction.imagebind.weights import load_imagebind, weights_sha256

TEXT_SCALE = "modality_postprocessors.text.1.log_logit_scale"
EXTRA_KEY = "modality_trunks.audio.blocks.0.attn.bias_k"
IMU_HEAD = "modality_heads.imu.3.weight"


@pytest.fixture(scope="module", params=[".pth", ".safetensors"])
def weights_file(request, small_weights, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / f"small{request.param}"
    save(small_weights, path)
    return path


def save(weights: dict[str, Tensor], path: Path, **options: bool) -> None:
    if path.suffix == ".pth":
        torch.save(weights, path, **options)
    else:
        save_file(weights, path)


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_file_gives_the_same_embeddings_as_the_state_dict(
    weights_file, small_config, small_model, small_inputs
):
    model = load_imagebind(weights_file, small_config, modalities=MODALITIES)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    inputs = {name: small_inputs[name] for name in MODALITIES}
    assert same(model(inputs), small_model(inputs))


def test_by_default_only_vision_and_text_are_built(weights_file, small_config, small_model, small_inputs):
    model = load_imagebind(weights_file, small_config)
    assert {key.split(".")[1] for key in model.state_dict()} == {"vision", "text"}
    inputs = {name: small_inputs[name] for name in ("vision", "text")}
    assert same(model(inputs), small_model(inputs))


def test_another_dtype_spares_the_logit_scale(weights_file, small_config):
    state = load_imagebind(weights_file, small_config, dtype=torch.bfloat16).state_dict()
    assert state.pop(TEXT_SCALE).item() == pytest.approx(3.1)
    assert {value.dtype for value in state.values()} == {torch.bfloat16}


def test_weights_in_half_precision_become_what_is_asked_for(small_weights, small_config, tmp_path):
    halved = {key: value.half() for key, value in small_weights.items()}
    save(halved, tmp_path / "half.pth")
    state = load_imagebind(tmp_path / "half.pth", small_config).state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_the_file_of_an_old_torch_is_read(small_weights, small_config, tmp_path):
    save(small_weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    state = load_imagebind(tmp_path / "old.pth", small_config, modalities=MODALITIES).state_dict()
    assert same(state, small_weights)


def test_the_checksum_is_that_of_the_file(weights_file):
    assert weights_sha256(weights_file) == hashlib.sha256(weights_file.read_bytes()).hexdigest()


def test_no_random_weights_are_made_on_the_way(weights_file, small_config):
    before = torch.get_rng_state()
    load_imagebind(weights_file, small_config)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("share", "suffix"), [(0, ".pth"), (0, ".safetensors"), (0.5, ".pth"), (0.999, ".pth")]
)
def test_a_truncated_file_is_named(share, suffix, small_weights, small_config, tmp_path):
    path = tmp_path / f"cut{suffix}"
    save(small_weights, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(
        InputError, match=f"the weights file {re.escape(str(path))} is damaged: fetch it again"
    ):
        load_imagebind(path, small_config)


def test_a_safetensors_file_without_its_end_is_named(small_weights, small_config, tmp_path):
    path = tmp_path / "cut.safetensors"
    save(small_weights, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        InputError, match=f"the weights file {re.escape(str(path))} is damaged: fetch it again"
    ):
        load_imagebind(path, small_config)


@pytest.mark.parametrize(
    "content", [b"not weights", b"PK\x03\x04", b"<!DOCTYPE html><html>" * 99, b"\x80\x04."]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_of_something_else_is_named(content, suffix, small_config, tmp_path):
    path = tmp_path / f"other{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"the weights file {re.escape(str(path))} is damaged"):
        load_imagebind(path, small_config)


def test_a_file_that_would_run_code_is_refused(small_config, tmp_path):
    torch.save({"a": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(InputError, match=r"code\.pth is damaged"):
        load_imagebind(tmp_path / "code.pth", small_config)


def test_a_missing_file_and_an_empty_folder_are_named(small_config, tmp_path):
    for path, what in ((tmp_path / "absent.pth", "there is no weights file "), (tmp_path, "the folder ")):
        for use in (lambda path: load_imagebind(path, small_config), weights_sha256):
            with pytest.raises(InputError, match=what + re.escape(str(path))):
                use(path)


def test_a_file_without_a_wanted_tower_is_told_which_it_has(small_weights, small_config, tmp_path):
    two = {key: value for key, value in small_weights.items() if key.split(".")[1] in ("vision", "text")}
    save(two, tmp_path / "two.pth")
    with pytest.raises(InputError, match=r"two\.pth \(no audio tower, only vision, text\): .* missing"):
        load_imagebind(tmp_path / "two.pth", small_config, modalities=("text", "audio"))


def test_a_list_of_tensors_is_no_state_dict(small_config, tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"list.pth holds no state dict but a list"):
        load_imagebind(tmp_path / "list.pth", small_config)


def changed(weights: dict[str, Tensor], **values: Tensor | None) -> dict[str, Tensor]:
    merged = {**weights, **values}
    return {key: value for key, value in merged.items() if value is not None}


def test_faulty_keys_are_counted_and_named(small_weights, small_config):
    model = ImageBind(small_config)
    faulty = changed(small_weights, **{EXTRA_KEY: None, "modality_trunks.audio.extra": torch.zeros(1)})
    faulty = changed(faulty, **{IMU_HEAD: torch.zeros(24, 17), TEXT_SCALE: torch.zeros(1)})
    with pytest.raises(InputError) as caught:
        model.load_official_state_dict(faulty)
    sentence = str(caught.value)
    assert (
        f"1 missing ({EXTRA_KEY}), 1 unexpected (modality_trunks.audio.extra), 2 of another shape" in sentence
    )
    assert f"{IMU_HEAD} is [24, 17] and must be [24, 16]" in sentence
    assert f"{TEXT_SCALE} is [1] and must be []" in sentence


def test_a_refused_state_dict_leaves_the_model_as_it_was(small_weights, small_config):
    model = ImageBind(small_config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError):
        model.load_official_state_dict(changed(small_weights, **{IMU_HEAD: None}))
    assert same(model.state_dict(), before)


def test_only_the_chosen_modalities_must_be_there(small_weights, small_config):
    two = ImageBindConfig.from_dict({**small_config.to_dict(), "modalities": ["vision", "text"]})
    only = {key: value for key, value in small_weights.items() if key.split(".")[1] in ("vision", "text")}
    ImageBind(two).load_official_state_dict(only)
    ImageBind(two).load_official_state_dict(small_weights)
    with pytest.raises(InputError, match=r"missing \(modality_preprocessors.audio.*; \.\.\.\)"):
        ImageBind(small_config).load_official_state_dict(only)
    with pytest.raises(InputError, match=r"1 unexpected \(a\)"):
        ImageBind(two).load_official_state_dict({**only, "a": torch.zeros(1)})


def test_a_checkpoint_of_the_wrong_kind_is_named_with_its_file(small_config, tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}, 3: 4}, tmp_path / "run.pth")
    with pytest.raises(InputError, match=r"run.pth: the weights do not fit .* 2 unexpected \(model; 3\)"):
        load_imagebind(tmp_path / "run.pth", small_config)
