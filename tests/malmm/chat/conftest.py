"""A whole chat in small: random weights of every part, on disk as the real ones would be."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from tiny_llama import save_tiny_llama

from extraction.imagebind import ImageBind, ImageBindConfig
from extraction.preprocess.text import train_vocabulary
from malmm.chat.accounts import Account, hash_password, write_accounts
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


@dataclass(frozen=True)
class Server:
    """A running `python -m malmm serve` with the embedded default."""

    url: str
    keys: dict[str, str]
    """API key of each user."""

    def client(self, user: str | None = None) -> httpx.Client:
        """A browser without a browser, signed in where a user is named."""
        client = httpx.Client(base_url=self.url, timeout=120)
        if user is not None:
            answer = client.post("/sign-in", data={"name": user, "password": f"the password of {user}"})
            assert answer.status_code == 303, answer.text
        return client

    def ask(self, user: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        """POST /v1/chat/completions with the user's key."""
        headers = {"authorization": f"Bearer {self.keys[user]}", **headers}
        url = f"{self.url}/v1/chat/completions"
        return httpx.post(url, json={"model": "malmm", **body}, headers=headers, timeout=120)


USERS = (
    "ana",
    "bob",
    "carol",
    "dora",
    "emil",
    "fritz",
    "gina",
    "hugo",
    "ines",
    "jan",
)  # a test takes some for itself
SERVE = [sys.executable, "-m", "malmm", "serve"]


@contextmanager
def serving(
    project: Path, *arguments: str, stderr: int | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command at a free port -> (its process, its address); it is stopped at the end."""
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    command = [*SERVE, "--port", "0", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("malmm answers at "), line
            yield process, line.split()[3]
        finally:
            process.kill()


@pytest.fixture(scope="session")
def server(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gradio", reason="the page needs gradio: pip install -e .[web]")
    folder = tmp_path_factory.mktemp("server")
    accounts, keys = {}, {user: f"key-of-{user}" for user in USERS}
    for user, key in keys.items():
        digest = hashlib.sha256(key.encode()).hexdigest()
        accounts[user] = Account(user, hash_password(f"the password of {user}"), (digest,))
    write_accounts(folder / "accounts.txt", accounts)
    arguments = ["--auth", str(folder / "accounts.txt"), "--store", str(folder / "memory.db")]
    with serving(project, *arguments, "--max-upload-mb", "2") as (_, url):
        yield Server(url, keys)
