"""A small VisDial with pictures, and a random ImageBind for it: enough to run the real command on."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from extraction.__main__ import app
from extraction.imagebind import ImageBind, ImageBindConfig
from extraction.preprocess.text import train_vocabulary

Run = subprocess.CompletedProcess[str]
PROJECT = Path(__file__).resolve().parents[2]
NUM_DIALOGS = 30
SHARD_SIZE = 4
QUESTIONS = [
    "is it sunny",
    "what colour is it",
    "how many people are there",
    "is there a dog",
    "can you see the sky",
    "what is the man wearing",
    "is the photo in colour",
    "how old does she look",
    "are there any buildings",
    "is it day or night",
    "what about the other one",
    "does it look new",
]
ANSWERS = ["yes", "no", "red", "2", "can't tell"]
SIZES = {
    "kernel_size": [2, 56, 56],
    "out_embed_dim": 12,
    "vision_embed_dim": 16,
    "vision_num_blocks": 2,
    "vision_num_heads": 2,
    "text_embed_dim": 16,
    "text_num_blocks": 2,
    "text_num_heads": 2,
    "audio_embed_dim": 16,
    "audio_num_blocks": 2,
    "audio_num_heads": 2,
    "modalities": ["vision", "text"],
}


def write_visdial(path: Path, image_ids: Sequence[int], rounds: int = 10, seed: int = 0) -> dict[str, Any]:
    """Write annotations in the official format; returns them."""
    rng = random.Random(seed)
    dialogs = []
    for image_id in image_ids:
        turns = [
            {
                "question": rng.randrange(len(QUESTIONS)),
                "answer": rng.randrange(len(ANSWERS)),
                "answer_options": [rng.randrange(len(ANSWERS)) for _ in range(100)],
                "gt_index": 0,
            }
            for _ in range(rounds)
        ]
        caption = f"a picture of {rng.choice(['a cat', 'two dogs', 'a red bus'])} number {image_id % 7}"
        dialogs.append({"image_id": image_id, "caption": caption, "dialog": turns})
    data = {"questions": QUESTIONS, "answers": ANSWERS, "dialogs": dialogs}
    content = {"version": "1.0", "split": "train", "data": data}
    path.write_text(json.dumps(content))
    return content


def write_encoder(folder: Path, seed: int = 0, spread: float = 1, **sizes: Any) -> dict[str, Any]:
    """Write random weights, sizes and a vocabulary; returns the `encoder` section that names them.

    Embeddings of different things are nearly the same where `spread`, a factor of the weights, is not large.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = train_vocabulary(
        [*QUESTIONS, "a picture of a cat two dogs a red bus number"], 60, folder / "bpe.txt.gz"
    )
    sizes = {**SIZES, "vocab_size": 512 + size + 2, **sizes}
    (folder / "config.json").write_text(json.dumps(sizes))
    torch.manual_seed(seed)
    model = ImageBind(ImageBindConfig.from_dict(sizes))
    weights = {
        name: value if value.ndim < 2 else spread * value for name, value in model.state_dict().items()
    }
    save_file(weights, folder / "weights.safetensors")
    return {
        "weights": str(folder / "weights.safetensors"),
        "config": str(folder / "config.json"),
        "vocabulary": str(folder / "bpe.txt.gz"),
        "device": "cpu",
    }


class World:
    """The folder of a small VisDial; every path that a method returns or takes lies in it."""

    def __init__(self, folder: Path, num_dialogs: int = NUM_DIALOGS) -> None:
        self.folder = folder
        self.image_ids = random.Random(5).sample(range(600_000), num_dialogs)
        self.annotations = folder / "visdial_1.0_train.json"
        self.pictures = folder / "train2014"
        self.store = folder / "store"
        self.content = write_visdial(self.annotations, self.image_ids)
        for image_id in self.image_ids:
            self.write_picture(image_id)
        self.encoder = write_encoder(folder / "encoder")
        self.config = self.write_config()

    def picture(self, image_id: int) -> Path:
        """The file of a picture, named as COCO names them."""
        return self.pictures / f"COCO_train2014_{image_id:012d}.jpg"

    def write_picture(self, image_id: int) -> None:
        rng = random.Random(image_id)
        picture = Image.new("RGB", (80, 60), tuple(rng.randrange(256) for _ in range(3)))
        picture.paste(tuple(rng.randrange(256) for _ in range(3)), (rng.randrange(40), 10, 60, 40))
        self.pictures.mkdir(parents=True, exist_ok=True)
        picture.save(self.picture(image_id))

    def sections(self, **changed: Any) -> dict[str, Any]:
        """What a configuration holds, with `changed` top-level keys."""
        split = {"annotations": str(self.annotations), "images": [str(self.pictures)]}
        return {
            "encoder": self.encoder,
            "data": {"splits": {"train": split}},
            "store": str(self.store),
            "batch_size": {"vision": 3, "text": 3},
            "shard_size": SHARD_SIZE,
            **changed,
        }

    def write_config(self, name: str = "config.yaml", **changed: Any) -> Path:
        path = self.folder / name
        path.write_text(json.dumps(self.sections(**changed), indent=2))  # JSON is YAML
        return path

    def run(self, *arguments: str | Path, config: Path | None = None, cwd: Path | None = None) -> Run:
        """Run the command line of stage 1 to its end."""
        return subprocess.run(
            self.command(*arguments, config=config),
            capture_output=True,
            text=True,
            env=self.environment(),
            cwd=cwd,
            timeout=300,
        )

    def call(self, *arguments: str | Path, config: Path | None = None) -> Result:
        """Run the same in this process: seconds faster, for tests that need no process of their own."""
        return CliRunner().invoke(app, self.command(*arguments, config=config)[3:])

    def command(self, *arguments: str | Path, config: Path | None = None) -> list[str]:
        """The command line of stage 1, as a person types it."""
        words = [sys.executable, "-m", "extraction", "visdial", "--config", config or self.config, *arguments]
        return list(map(str, words))

    def environment(self) -> dict[str, str]:
        """The environment for it: this checkout's packages, one thread."""
        return {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def contents(self, folder: Path | None = None) -> dict[str, bytes]:
        """Every file of the store (or `folder`) with its bytes."""
        folder = folder or self.store
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_sound(path: Path, seconds: float = 3.0, pitch: float = 440.0, rate: int = 16000) -> Path:
    """Write a tone whose pitch rises; the suffix chooses the format."""
    time = np.arange(int(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * pitch * time * (1 + time / 4))
    soundfile.write(path, wave.astype(np.float32), rate)
    return path


def make_frames(count: int, seed: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    """Draw uint8 [count, height, width, 3]: a square that wanders over a ground that changes its colour."""
    rng = np.random.default_rng(seed)
    ground, square = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    for i in range(count):
        frames[i] = (ground + 4 * i) % 256
        frames[i, 8:32, i % (width - 24) : i % (width - 24) + 24] = square
    return frames


def write_film(path: Path, frames: np.ndarray, rate: int = 10) -> Path:
    """Write frames as a film; the suffix chooses the container. In an .mkv nothing of them is lost."""
    codec, pixels = {".mkv": ("ffv1", "bgr0"), ".webm": ("libvpx", "yuv420p")}.get(
        path.suffix, ("mpeg4", "yuv420p")
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


class ItemWorld:
    """A folder of pictures, sounds, films and texts in a mixture, an encoder for it, and a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.items = folder / "items"
        self.store = folder / "store"
        self.fill()
        encoder = write_encoder(folder / "encoder", spread=15, modalities=["vision", "text", "audio"])
        self.encoder = encoder
        self.config = folder / "config.yaml"
        self.config.write_text(json.dumps(self.sections()))

    def sections(self, **changed: Any) -> dict[str, Any]:
        """What the configuration holds, with `changed` top-level keys."""
        return {
            "encoder": self.encoder,
            "batch_size": {"vision": 2, "video": 1, "audio": 2, "text": 3},
            "shard_size": {"vision": 3, "video": 1, "audio": 2, "text": 4},
            **changed,
        }

    def fill(self) -> None:
        """Nine pictures, two of them equal, four sounds, two films and twelve lines, ten of them distinct."""
        for place in ("a", "b/deep", "c"):
            (self.items / place).mkdir(parents=True)
        for i, place in enumerate(["a/3.png", "a/1.jpg", "b/deep/2.png", "b/4.webp", "c/x.bmp", "c/y.gif"]):
            self.write_picture(place, i)
        self.write_picture("z.PNG", 7)
        self.write_picture("c/again.png", 0)
        self.write_picture("c/last.tif", 9)
        for i, place in enumerate(["a/tone.wav", "b/tone.flac", "b/other.WAV", "tone.mp3"]):
            write_sound(self.items / place, seconds=1 + i, pitch=150 + 90 * i)
        write_film(self.items / "b/film.mkv", make_frames(12, seed=1))
        write_film(self.items / "film.mp4", make_frames(30, seed=2))
        questions = "\n".join(QUESTIONS[:8])
        (self.items / "a/lines.txt").write_text(f"\ufeff{questions}\n\n   \n{QUESTIONS[0]}\r\n", "utf-8")
        (self.items / "texts.txt").write_text(f"  {QUESTIONS[3]} \nein Hündchen\n{QUESTIONS[9]}", "utf-8")
        (self.items / "notes.pdf").write_text("of no known kind")
        (self.items / ".hidden.png").write_text("not to be seen")

    def write_picture(self, place: str, seed: int) -> Path:
        """Write a picture of the store's folder."""
        frame = make_frames(1, seed=seed)[0]
        Image.fromarray(frame).save(self.items / place)
        return self.items / place

    def command(self, *arguments: str | Path) -> list[str]:
        """The command line, as a person types it."""
        words = [sys.executable, "-m", "extraction", "files", self.items, "--config", self.config, *arguments]
        return list(map(str, words if "--out" in arguments else [*words, "--out", self.store]))

    def run(self, *arguments: str | Path) -> Run:
        """Run the command to its end."""
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, env=self.environment(), timeout=300
        )

    def call(self, *arguments: str | Path) -> Result:
        """Run the same in this process."""
        return CliRunner().invoke(app, self.command(*arguments)[3:], catch_exceptions=False)

    def search(self, *arguments: str | Path, store: Path | None = None) -> Result:
        """Run `search` in this process."""
        words = ["search", store or self.store, *arguments, "--config", self.config]
        return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)

    environment = World.environment
    contents = World.contents


@pytest.fixture
def item_world(tmp_path: Path) -> ItemWorld:
    """A mixture of files of one's own."""
    return ItemWorld(tmp_path)


@pytest.fixture(scope="session")
def finished_items(tmp_path_factory: pytest.TempPathFactory) -> ItemWorld:
    """A mixture of files whose store an undisturbed run has made. Not to be changed."""
    world = ItemWorld(tmp_path_factory.mktemp("finished_items"))
    done = world.run()
    assert done.returncode == 0, done.stderr
    return world


@pytest.fixture(scope="session")
def sound_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three sounds of two, three and nine seconds at 16 kHz."""
    folder = tmp_path_factory.mktemp("sounds")
    return [write_sound(folder / f"{s}.wav", seconds=s, pitch=200.0 * s) for s in (2, 3, 9)]


@pytest.fixture(scope="session")
def film_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A film of four seconds, ten frames a second, and its frames uint8 [40, 48, 64, 3]."""
    frames = make_frames(40)
    return write_film(tmp_path_factory.mktemp("films") / "film.mkv", frames), frames


@pytest.fixture(scope="session")
def encoder_files() -> Callable[..., dict[str, Any]]:
    """`write_encoder`: random weights, sizes and a vocabulary in a folder."""
    return write_encoder


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A small VisDial of one's own."""
    return World(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small VisDial whose store an undisturbed run has made. Not to be changed."""
    world = World(tmp_path_factory.mktemp("finished"))
    done = world.run()
    assert done.returncode == 0, done.stderr
    return world
