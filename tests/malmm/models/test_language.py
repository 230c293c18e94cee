import json
import threading

import pytest
import torch
from safetensors.torch import load_file
from tiny_llama import byte_tokenizer, reference_llama, reference_tokenizer, save_tiny_llama
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from malmm.models.language import IGNORED, LanguageConfig, LanguageModel

PROMPTS = ["Question: what colour is it? Answer:", "Answer:", "Question: is there a ball? Answer:"]
ANSWERS = ["red", "yes", "no green"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def language(folder):
    return LanguageModel.load(LanguageConfig(str(folder), precision="fp32", max_answer_tokens=12))


def visual_tokens(language, rows=3, count=4):
    return torch.randn(rows, count, language.width, generator=torch.Generator().manual_seed(1))


# -- the original's rows and losses ------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["M0", "M3"])
def test_rows_and_loss_are_the_original_ones(shared, memory):
    tensors = load_file(shared / "parity/malmm/e2e_small.safetensors")
    texts = json.loads((shared / "parity/malmm/qformer_small.json").read_text())["llm_text"]
    language = LanguageModel(reference_llama(shared), reference_tokenizer(), LanguageConfig("reference"))
    stored = tensors[f"{memory}.train.inputs_embeds"]
    visual = stored[:, : stored.shape[1] - 8]  # prompt 5 and answer 3 tokens in the longest row

    embeddings, mask, labels = language.answer_rows(visual, texts["prompts"], texts["answers"])
    assert torch.equal(embeddings, stored)
    assert torch.equal(mask, tensors[f"{memory}.train.attention_mask"])
    assert torch.equal(labels, tensors[f"{memory}.train.labels"])

    loss, tokens = language.answer_loss(visual, texts["prompts"], texts["answers"])
    assert tokens == 5
    assert loss.item() == pytest.approx(tensors[f"{memory}.train.loss"].item(), abs=2e-5)


@pytest.mark.parametrize("memory", ["M0", "M3"])
def test_prompt_rows_are_the_original_ones(shared, memory):
    tensors = load_file(shared / "parity/malmm/e2e_small.safetensors")
    texts = json.loads((shared / "parity/malmm/qformer_small.json").read_text())["llm_text"]
    language = LanguageModel(reference_llama(shared), reference_tokenizer(), LanguageConfig("reference"))
    stored = tensors[f"{memory}.gen.inputs_embeds"]
    embeddings, mask = language.prompt_rows(stored[:, : stored.shape[1] - 5], texts["prompts"])
    assert torch.equal(embeddings, stored)
    assert torch.equal(mask, tensors[f"{memory}.gen.attention_mask"])


# -- loss --------------------------------------------------------------------------------------------


def test_loss_is_that_of_full_logits(language):
    visual = visual_tokens(language)
    embeddings, mask, labels = language.answer_rows(visual, PROMPTS, ANSWERS)
    full = language.causal(inputs_embeds=embeddings, attention_mask=mask, labels=labels).loss
    loss, tokens = language.answer_loss(visual, PROMPTS, ANSWERS)
    assert tokens == int((labels != IGNORED).sum())
    assert loss.item() == pytest.approx(full.item(), abs=1e-5)


def test_logits_are_computed_only_where_there_is_a_label(language):
    seen = []
    head = language.causal.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    _, tokens = language.answer_loss(visual_tokens(language), PROMPTS, ANSWERS)
    hook.remove()
    assert seen == [(tokens, language.vocab_size)]


def test_padding_changes_no_row(language):
    visual = visual_tokens(language)
    sums, counts = language.answer_logprobs(visual, PROMPTS, ANSWERS)
    for row in range(3):
        alone, count = language.answer_logprobs(visual[[row]], [PROMPTS[row]], [ANSWERS[row]])
        assert count.item() == counts[row].item()
        assert alone.item() == pytest.approx(sums[row].item(), abs=1e-4)


def test_gradient_reaches_visual_and_no_weight(language):
    language.train()
    assert not any(module.training for module in language.modules())
    visual = visual_tokens(language).requires_grad_()
    language.answer_loss(visual, PROMPTS, ANSWERS)[0].backward()
    assert (visual.grad.flatten(1).norm(dim=1) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in language.parameters())


def test_accumulated_parts_weighed_by_tokens_are_the_whole(language):
    visual = visual_tokens(language).requires_grad_()
    whole, tokens = language.answer_loss(visual, PROMPTS, ANSWERS)
    (expected,) = torch.autograd.grad(whole, visual)
    for rows in ([0], [1, 2]):
        part, count = language.answer_loss(
            visual[rows], [PROMPTS[r] for r in rows], [ANSWERS[r] for r in rows]
        )
        (part * count / tokens).backward()
    assert torch.allclose(visual.grad, expected, atol=1e-6)


# -- tokens ------------------------------------------------------------------------------------------


def test_answer_ids_are_what_follows_the_prompt(language):
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        joined = language.tokenizer.encode(f"{prompt} {answer}", add_special_tokens=False)
        bos, eos = language.tokenizer.bos_token_id, language.tokenizer.eos_token_id
        assert language.prompt_ids(prompt) + language.answer_ids(answer) == [bos, *joined, eos]
    assert language.prompt_ids("Answer: ") == language.prompt_ids("Answer:")
    assert language.answer_ids(" red ") == language.answer_ids("red")


def test_a_long_prompt_keeps_bos_and_its_end(folder):
    language = LanguageModel.load(LanguageConfig(str(folder), precision="fp32", max_prompt_tokens=6))
    everything = language.tokenizer.encode("red " * 5000 + "Answer:", add_special_tokens=False)
    ids = language.prompt_ids("red " * 5000 + "Answer:")
    assert ids == [language.tokenizer.bos_token_id, *everything[-5:]]


def test_a_long_answer_is_cut_and_then_has_no_eos(folder):
    language = LanguageModel.load(LanguageConfig(str(folder), precision="fp32", max_answer_tokens=3))
    assert len(language.answer_ids("yes no green blue")) == 3
    assert language.tokenizer.eos_token_id not in language.answer_ids("yes no green blue")
    assert language.answer_ids("yes")[-1] == language.tokenizer.eos_token_id


# -- generation --------------------------------------------------------------------------------------


def test_greedy_takes_the_likeliest_token_each_time(language):
    visual = visual_tokens(language, rows=1)
    embeddings, _ = language.prompt_rows(visual, PROMPTS[:1])
    ids = []
    for _ in range(12):
        token = language.causal(inputs_embeds=embeddings).logits[0, -1].argmax()
        if token == language.tokenizer.eos_token_id:
            break
        ids.append(token)
        embeddings = torch.cat([embeddings, language.causal.get_input_embeddings()(token)[None, None]], dim=1)
    expected = language.tokenizer.decode(torch.stack(ids), skip_special_tokens=True).strip()
    assert language.generate(visual, PROMPTS[:1]) == [expected]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_row_alone_is_answered_as_in_a_batch(language, beams):
    visual = visual_tokens(language)
    together = language.generate(visual, PROMPTS, num_beams=beams)
    alone = [language.generate(visual[[r]], [PROMPTS[r]], num_beams=beams)[0] for r in range(3)]
    assert together == alone
    assert len(set(together)) == 3


def test_several_sequences_of_a_row_follow_each_other(language):
    visual = visual_tokens(language, rows=2)
    texts = language.generate(visual, PROMPTS[:2], num_beams=3, num_return_sequences=3)
    assert len(texts) == 6
    assert texts[0] == language.generate(visual[:1], PROMPTS[:1], num_beams=3)[0]
    assert texts[3] == language.generate(visual[1:], PROMPTS[1:2], num_beams=3)[0]


@pytest.mark.parametrize(
    "options", [{}, {"repetition_penalty": 1.5}, {"num_beams": 2}, {"max_new_tokens": 1}]
)
def test_stream_joined_is_what_generate_gives(language, options):
    visual = visual_tokens(language)
    for row in range(3):
        pieces = list(language.stream(visual[[row]], PROMPTS[row], **options))
        assert "".join(pieces) == language.generate(visual[[row]], [PROMPTS[row]], **options)[0]
        assert all(pieces)


def test_stream_comes_in_pieces(shared):
    tensors = load_file(shared / "parity/malmm/e2e_small.safetensors")
    language = LanguageModel(reference_llama(shared), reference_tokenizer(), LanguageConfig("reference"))
    visual = tensors["M0.gen.inputs_embeds"][:1, :-5]
    pieces = list(language.stream(visual, "w1 w2 w3 w4", max_new_tokens=6))
    assert len(pieces) > 2
    assert "".join(pieces) == language.generate(visual, ["w1 w2 w3 w4"], max_new_tokens=6)[0]


def test_a_stream_closed_early_leaves_no_thread(language):
    before = threading.active_count()
    pieces = language.stream(
        visual_tokens(language, rows=1), PROMPTS[0], max_new_tokens=200, min_new_tokens=200
    )
    next(pieces)
    pieces.close()
    assert threading.active_count() == before


def test_a_failure_in_the_stream_is_raised(language):
    wrong = torch.randn(1, 4, language.width)
    hook = language.causal.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    try:
        with pytest.raises(RuntimeError, match="broken"):
            list(language.stream(wrong, PROMPTS[0]))
    finally:
        hook.remove()


def test_generation_works_on_tensors_of_inference_mode(language):
    expected = language.generate(visual_tokens(language), PROMPTS)
    with torch.inference_mode():
        visual = visual_tokens(language) * 1.0
        assert language.generate(visual, PROMPTS) == expected
    assert language.generate(visual, PROMPTS) == expected
    assert "".join(language.stream(visual[:1], PROMPTS[0])) == expected[0]


# -- adapters and real sizes -------------------------------------------------------------------------


def test_lora_is_what_learns_and_starts_as_nothing(folder):
    language = LanguageModel.load(LanguageConfig(str(folder), precision="fp32"))
    visual = visual_tokens(language)
    before = language.answer_loss(visual, PROMPTS, ANSWERS)[0].item()
    language.add_lora()
    loss, _ = language.answer_loss(visual, PROMPTS, ANSWERS)
    assert loss.item() == pytest.approx(before, abs=1e-6)
    loss.backward()
    learning = {name for name, p in language.named_parameters() if p.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in language.parameters())


def test_real_llama_sizes_on_the_meta_device():
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        eos_token_id=[128001, 128008, 128009],
    )
    with torch.device("meta"):
        llama = LlamaForCausalLM(config)
    language = LanguageModel(llama, byte_tokenizer(pad_token="<|pad|>"), LanguageConfig("meta"))
    assert (language.width, language.vocab_size) == (2048, 128256)
    assert {128001, 128008, 128009} < set(language.causal.generation_config.eos_token_id)
    visual = torch.zeros(2, 32, 2048, device="meta")
    embeddings, mask, _ = language.answer_rows(visual, PROMPTS[:2], ANSWERS[:2])
    assert embeddings.shape == (2, mask.shape[1], 2048) and embeddings.is_meta
    assert functional.pad(mask, (0, 1)).shape[1] > 32
