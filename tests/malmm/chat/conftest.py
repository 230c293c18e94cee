"""A whole chat in small: random weights of every part, on disk as the real ones would be."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_llama import save_tiny_llama

from extraction.imagebind import ImageBind, ImageBindConfig
from extraction.preprocess.text import train_vocabulary
from malmm.chat.loading import load_session
from malmm.chat.session import ChatSession

TEXTS = ["what colour is the circle?", "is there a square left of it?", "yes", "no", "a photo of two shapes"]
WIDTH = 16


def write_encoder(folder: Path) -> None:
    merges = train_vocabulary(TEXTS, 40, folder / "vocabulary.txt.gz")
    sizes = {
        "out_embed_dim": WIDTH, "vision_embed_dim": 16, "vision_num_blocks": 1, "vision_num_heads": 2,
        "text_embed_dim": 16, "text_num_blocks": 1, "text_num_heads": 2, "image_size": 28,
        "vocab_size": 512 + merges + 2, "modalities": ["vision", "text"],
    }  # fmt: skip
    (folder / "imagebind.json").write_text(json.dumps(sizes))
    weights = ImageBind(ImageBindConfig.from_dict(sizes)).state_dict()
    for name, value in weights.items():
        if value.ndim > 1 and "mask" not in name:  # the usual small start would make all texts nearly equal
            value.normal_(std=0.5)
    torch.save(weights, folder / "imagebind.pth")
    (folder / "extraction.yaml").write_text(
        f"encoder: {{weights: {folder}/imagebind.pth, config: {folder}/imagebind.json, "
        f"vocabulary: {folder}/vocabulary.txt.gz, device: cpu}}\n"
        f"data: {{splits: {{val: {{annotations: {folder}/val.json, images: [{folder}]}}}}}}\n"
        f"store: {folder}/store\n"
    )


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with encoder, language model, model.yaml and two pictures."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    write_encoder(folder)
    save_tiny_llama(folder / "llama", hidden=16, intermediate=32)
    (folder / "model.yaml").write_text(
        f"""
model:
  arch: dialogue
  embedding_width: {WIDTH}
  memory_bank_length: 3
  visdial_style: false
  qformer: {{hidden_size: 16, num_attention_heads: 2, num_hidden_layers: 2, cross_attention_freq: 2,
            intermediate_size: 32, encoder_width: 16, num_query_token: 4, vocab_size: null}}
  language: {{path: {folder}/llama, precision: fp32, compute_dtype: fp32, device: cpu}}
  generation: {{max_new_tokens: 8, min_new_tokens: 8}}
  encoder: {folder}/extraction.yaml
"""
    )
    for name, colour in (("red", (200, 30, 30)), ("blue", (20, 40, 220))):
        Image.new("RGB", (40, 30), colour).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def session(parts: Path) -> ChatSession:
    session = load_session(parts / "model.yaml")
    for parameter in session.model.qformer.parameters():
        if parameter.ndim > 1:  # as above: an untrained Q-Former hardly looks at what it is shown
            parameter.data.mul_(15)
    return session
