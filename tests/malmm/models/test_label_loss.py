"""Rows in groups: the log-probabilities and gradients of all rows together, with fewer of them in memory."""

from pathlib import Path

import pytest
import torch
from tiny_llama import save_tiny_llama
from torch import Tensor

from malmm.models import label_loss
from malmm.models.language import LanguageConfig, LanguageModel

PROMPTS = ["is it red", "what colour is the ball on the left", "is there", "two or three balls there"]
ANSWERS = ["yes", "red and blue", "two left right green", "no"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def language(folder: Path) -> LanguageModel:
    return LanguageModel.load(LanguageConfig(str(folder), precision="fp32"))


def visual_tokens(language: LanguageModel) -> Tensor:
    return torch.randn(4, 3, language.width, generator=torch.Generator().manual_seed(0)).requires_grad_()


def read(language: LanguageModel) -> tuple[list[int], Tensor, Tensor]:
    """Rows of each call of the language model, the sums, and the gradient of unequally weighted sums."""
    visual, calls = visual_tokens(language), []
    hook = language.causal.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    sums, _ = language.answer_logprobs(visual, PROMPTS, ANSWERS)
    (sums * torch.tensor([1.0, -2.0, 0.5, 3.0])).sum().backward()
    hook.remove()
    return calls, sums.detach(), visual.grad


@pytest.mark.parametrize("tokens", [1, 30, 60, 10_000])
def test_groups_change_neither_sums_nor_gradients(
    language: LanguageModel, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    monkeypatch.setattr(label_loss, "_gives_only_their_gradient", lambda causal: False)
    calls, sums, gradient = read(language)
    assert calls == [4]
    monkeypatch.undo()
    monkeypatch.setattr(label_loss, "TOKENS_AT_ONCE", tokens)
    grouped, own_sums, own_gradient = read(language)
    assert sum(grouped) == 4
    assert (len(grouped) == 4) == (tokens == 1) and (len(grouped) == 1) == (tokens == 10_000)
    torch.testing.assert_close(own_sums, sums, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(own_gradient, gradient, atol=1e-5, rtol=1e-4)


def test_no_activation_outlives_its_group(language: LanguageModel) -> None:
    embeddings, mask, labels = language.answer_rows(visual_tokens(language), PROMPTS, ANSWERS)
    sums, _ = language.label_logprobs(embeddings, mask, labels)
    names, waiting = set(), [sums.grad_fn]
    while waiting:
        node = waiting.pop()
        names.add(type(node).__name__)
        waiting += [earlier for earlier, _ in node.next_functions if earlier is not None]
    # Behind the sums stands one node, then what joined visual tokens and prompt: no layer of the model.
    assert names == {"_InGroupsBackward", "CatBackward0", "AccumulateGrad"}


def test_what_learns_inside_the_model_gets_its_gradient(language: LanguageModel) -> None:
    pytest.importorskip("peft")
    language.add_lora(rank=2)
    learning = [parameter for name, parameter in language.named_parameters() if "lora_" in name]
    for parameter in learning:
        parameter.requires_grad_(True)
    visual = visual_tokens(language)
    language.answer_loss(visual, PROMPTS, ANSWERS)[0].backward()
    assert visual.grad is not None and visual.grad.abs().sum() > 0
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in learning)
