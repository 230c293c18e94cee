"""The real configuration with random weights: built, trained for two steps, asked a question."""

from pathlib import Path

import pytest
import torch
from tiny_llama import byte_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from malmm.config import load_model
from malmm.models.dialogue import DialogueBatch, DialogueConfig, DialogueModel

LLAMA_32_1B = {
    "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072,
    "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_real_sizes_learn_and_answer(project: Path, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path / "llama")
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        LlamaForCausalLM(LlamaConfig(**LLAMA_32_1B, **ids)).save_pretrained(tmp_path / "llama")
    finally:
        torch.set_default_dtype(torch.float32)

    values = load_model(project / "configs/models/dialogue_llama32_1b.yaml", DialogueConfig)
    values["language"]["path"] = str(tmp_path / "llama")
    model = DialogueModel.from_config(values)
    assert model.language.width == 2048
    layer = model.language.causal.model.layers[0].mlp.up_proj
    assert type(layer).__name__ == "Linear4bit"
    assert layer.weight.quant_type == "nf4"
    assert model.trainable_summary() == [
        ("imagebind_fc.weight", [1024, 2048], 2_097_152),
        ("imagebind_fc.bias", [1024], 1024),
        ("turn_pe.weight", [11, 1024], 11_264),
    ]

    batch = DialogueBatch(
        image_ids=[1],
        vision=torch.randn(1, 1024),
        text=torch.randn(1, 3, 1024) * 14,
        turn_mask=torch.ones(1, 3, dtype=torch.bool),
        questions=[["is there a ball", "what color is it"]],
        answers=[["yes", "red"]],
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(2):
        loss = model(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]

    state = model.init_state()
    queries, state = model.observe(batch.vision, batch.text[:, 0], state)
    assert queries.shape == (1, 32, 2048)
    assert isinstance(model.generate(queries, ["is there a ball"], max_new_tokens=3)[0], str)
