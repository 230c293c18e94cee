import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_llama import save_tiny_llama
from transformers import AutoModelForCausalLM, GenerationConfig

from malmm.errors import InputError
from malmm.models.language import LanguageConfig, LanguageModel
from malmm.models.precision import PRECISIONS, load_tokenizer, locate

PROMPTS, ANSWERS = ["Question: what colour is it? Answer:", "Answer:"], ["red", "no green"]
NF4_LEVELS = [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0]
NF4_LEVELS += [0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0]
BYTES_PER_WEIGHT = {"nf4": 0.55, "int8": 1.05, "bf16": 2, "fp16": 2, "fp32": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


def load(folder, precision, **options):
    return LanguageModel.load(LanguageConfig(str(folder), precision=precision, device="cpu", **options))


def round_to_nf4(layers):
    """Replace every matrix by its nearest NF4 values: blocks of 64 scaled to [-1, 1] (QLoRA, appendix E)."""
    levels = torch.tensor(NF4_LEVELS)
    for name, weight in layers.named_parameters():
        if "proj" in name:
            blocks = weight.detach().view(-1, 64)
            scale = blocks.abs().amax(dim=1, keepdim=True)
            nearest = (blocks / scale).unsqueeze(-1).sub(levels).abs().argmin(dim=-1)
            weight.data = (levels[nearest] * scale).view_as(weight)


def loss_and_gradient(language):
    visual = torch.randn(2, 4, language.width, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss, _ = language.answer_loss(visual, PROMPTS, ANSWERS)
    loss.backward()
    return loss.item(), visual.grad


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_trains_and_answers_on_a_cpu(folder, precision):
    language = load(folder, precision)
    loss, gradient = loss_and_gradient(language)
    exact = load(folder, "fp32")
    if precision == "nf4":
        round_to_nf4(exact.causal.model.layers)
    exact_loss, direction = loss_and_gradient(exact)
    assert loss == pytest.approx(exact_loss, rel=0.02)
    assert (
        torch.cosine_similarity(gradient.flatten(), direction.flatten(), dim=0) > 0.98
    )  # the scales are rounded too
    assert len(language.generate(gradient, PROMPTS, max_new_tokens=4)) == 2
    assert not any(p.requires_grad for p in language.parameters())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_are_stored_as_asked(folder, precision):
    layers = load(folder, precision).causal.model.layers
    numbers = 2 * (4 * 128 * 128 + 3 * 128 * 256)
    weights = [p for name, p in layers.named_parameters() if "proj" in name]
    stored = sum(p.numel() * p.element_size() for p in weights)
    assert stored <= BYTES_PER_WEIGHT[precision] * numbers


@pytest.mark.parametrize("precision", ["nf4", "fp32"])
def test_a_head_tied_to_the_embedding_is_not_missed(tmp_path, precision):
    language = load(save_tiny_llama(tmp_path, tie_word_embeddings=True), precision)
    head, embedding = language.causal.get_output_embeddings(), language.causal.get_input_embeddings()
    assert head.weight.data_ptr() == embedding.weight.data_ptr()


def test_generating_leaves_nf4_trainable_and_unchanged(folder):
    language = load(folder, "nf4")
    before = loss_and_gradient(language)
    with torch.inference_mode():
        texts = language.generate(before[1], PROMPTS)
    after = loss_and_gradient(language)
    assert after[0] == before[0]
    assert torch.equal(after[1], before[1])
    assert language.generate(before[1], PROMPTS) == texts
    assert (
        "".join(language.stream(before[1][:1], PROMPTS[0]))
        == language.generate(before[1][:1], PROMPTS[:1])[0]
    )


def test_nf4_weights_are_saved_as_they_were_after_generating(folder):
    language = load(folder, "nf4")
    before = {name: value.clone() for name, value in language.causal.state_dict().items()}
    language.generate(torch.zeros(1, 4, language.width), ["Answer:"])
    after = language.causal.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(("hidden", "intermediate"), [(32, 64), (96, 128), (128, 160)])
def test_nf4_with_rows_that_no_block_fits_is_refused_on_a_cpu(tmp_path, hidden, intermediate):
    save_tiny_llama(tmp_path, hidden, intermediate)
    with pytest.raises(
        InputError, match=r"nf4 is impossible .* set language.precision to int8, bf16 or fp32"
    ):
        load(tmp_path, "nf4")
    load(tmp_path, "int8")


def test_nf4_with_odd_numbers_of_rows_is_near_the_exact_loss(tmp_path):
    save_tiny_llama(tmp_path, 192, 320, num_key_value_heads=1)  # k_proj has 48 rows, no whole tile
    language = load(tmp_path, "nf4")
    loss, gradient = loss_and_gradient(language)
    assert loss == pytest.approx(loss_and_gradient(load(tmp_path, "fp32"))[0], rel=0.1)
    language.generate(gradient, PROMPTS)


def test_weights_that_are_stored_in_4_bit_load_as_such_only(folder, tmp_path):
    language = load(folder, "nf4")
    expected = loss_and_gradient(language)[0]
    language.causal.save_pretrained(tmp_path)
    language.tokenizer.save_pretrained(tmp_path)
    assert loss_and_gradient(load(tmp_path, "nf4"))[0] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(InputError, match=r"already quantised .* set language.precision to nf4"):
        load(tmp_path, "bf16")


@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_a_missing_bitsandbytes_is_named(folder, precision, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )
    with pytest.raises(InputError, match=r"bitsandbytes, which is not installed: .* bf16 or fp32"):
        load(folder, precision)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "int4"}, "precision is 'int4': set one of nf4"),
        ({"precision": "nf4", "compute_dtype": "half"}, "compute_dtype is 'half'"),
        ({"precision": "fp32", "device": "gpu"}, "device is 'gpu': set auto"),
        ({"precision": "fp32", "device": "cuda:99"}, "no such CUDA device"),
        ({"max_prompt_tokens": 1}, "max_prompt_tokens is 1: set it to 2 or more"),
    ],
)
def test_wrong_settings_are_named(folder, options, sentence):
    with pytest.raises(InputError, match=sentence):
        LanguageModel.load(LanguageConfig(str(folder), **options))


# -- folders -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("removed", "sentence"),
    [
        (("tokenizer.json", "tokenizer_config.json"), "has no tokenizer: put tokenizer.json"),
        (("tokenizer.json",), "has no tokenizer"),
        (("config.json",), "config.json is missing"),
        (("model.safetensors",), "has no weights"),
    ],
)
def test_what_a_folder_lacks_is_named(tmp_path, removed, sentence):
    save_tiny_llama(tmp_path)
    for name in removed:
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match=sentence) as caught:
        load(tmp_path, "fp32")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_weights_are_named(tmp_path):
    save_tiny_llama(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match="cannot be loaded in fp32"):
        load(tmp_path, "fp32")


def test_weights_of_another_size_are_named(tmp_path):
    save_tiny_llama(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(InputError, match=r"lack 9 tensors, the first model\.layers\.2"):
        load(tmp_path, "fp32")


def test_a_tokenizer_of_another_model_is_named(tmp_path):
    save_tiny_llama(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    model.resize_token_embeddings(100)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="beyond its model's 100 embeddings"):
        load(tmp_path, "fp32")


@pytest.mark.parametrize(
    "path", ["/nowhere/llama", "./llama", "../llama", "llama", "tests/llama", "a/b/c", "~/no-llama"]
)
def test_a_path_that_is_no_folder_never_reaches_the_network(path, project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("the network was asked"))
    with pytest.raises(InputError, match="there is no language model folder"):
        load(path, "fp32")


def test_a_hub_name_is_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert locate("meta-llama/Llama-3.2-1B") == ("meta-llama/Llama-3.2-1B", False)


def test_a_reserved_pad_is_preferred_to_eos_and_no_row_is_added(folder):
    language = load(folder, "fp32")
    assert language.tokenizer.pad_token == "<|finetune_right_pad_id|>"
    assert language.vocab_size == len(language.tokenizer)


def test_without_a_reserved_pad_it_is_eos(tmp_path):
    save_tiny_llama(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text().replace("<|finetune_right_pad_id|>", "<|reserved|>")
    (tmp_path / "tokenizer.json").write_text(text)
    assert load_tokenizer(str(tmp_path)).pad_token == "<|end|>"


def test_a_small_model_loads_without_a_word(folder):
    code = "from test_precision import load; import sys; load(sys.argv[1], 'nf4')"
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert (run.stdout + run.stderr).strip() == ""


def test_stored_sampling_defaults_are_forgotten(tmp_path):
    save_tiny_llama(tmp_path)
    GenerationConfig(do_sample=True, temperature=5.0, eos_token_id=[1, 7]).save_pretrained(tmp_path)
    defaults = load(tmp_path, "fp32").causal.generation_config
    assert not defaults.do_sample
    assert defaults.eos_token_id == [1, 7]
