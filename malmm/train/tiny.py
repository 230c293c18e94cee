"""`python -m malmm train-tiny`: make the weights of the embedded default again from nothing.

Four stages, each with a gate that its figures on held-out dialogues must pass before the next begins:

1. encoder: ImageBind's towers of pictures and texts learn to name what is on each place and a text's words;
2. audio: its tower of sounds learns to embed a scene's sound where the picture is, and the others stay;
3. memory: imagebind_fc, turn_pe and Q-Former learn the answer as a class;
4. language: a small Llama and llm_proj learn to say it.

Each finished stage is kept in the work folder, and the same command goes on behind it. Every figure is a line
of `training_log.jsonl`, which stays beside the weights.
"""

import argparse
import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM

from extraction.imagebind import ImageBind, ImageBindConfig
from extraction.imagebind.config import read_config
from extraction.imagebind.weights import available_towers, load_imagebind
from extraction.preprocess.text import Tokenizer, train_vocabulary
from malmm.config import load_model
from malmm.models.dialogue import DialogueConfig, DialogueModel
from malmm.models.lavis_keys import lavis_name
from malmm.train.tiny_audio import AudioRecipe, train_audio
from malmm.train.tiny_encoder import (
    ENCODER_SIZES,
    VOCABULARY_MERGES,
    EncoderRecipe,
    embed_world,
    train_encoder,
)
from malmm.train.tiny_language import LanguageRecipe, make_language_model, train_language
from malmm.train.tiny_memory import MemoryRecipe, train_memory
from malmm.train.tiny_stages import Stages, halves, save
from malmm.train.tiny_world import World, make_world

MODEL_CONFIG = "configs/models/dialogue_tiny.yaml"
# What the last report of a stage must reach before the next begins.
GATES = {
    "encoder": {"pictures_right": 0.9, "texts_right": 0.9},
    "audio": {"pictures_found": 0.9, "sounds_found": 0.9},
    "memory": {"direct": 0.6, "refers_back": 0.55},
    "language": {"direct": 0.55, "refers_back": 0.5},
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides on the weights."""

    dialogues: int = 20000
    held_out: int = 500  # the last of them: never trained on, only measured
    seed: int = 1000  # of the world and of the weights; `data mini` counts its seeds from 0
    memory_bank_length: int = 10  # 0: without the bank, the control that the default is held against
    encoder: EncoderRecipe = field(default_factory=EncoderRecipe)
    audio: AudioRecipe = field(default_factory=AudioRecipe)
    memory: MemoryRecipe = field(default_factory=MemoryRecipe)
    language: LanguageRecipe = field(default_factory=LanguageRecipe)


class Trainer(Stages):
    """Runs the stages in a work folder that has the layout of assets/tiny."""

    recipe: Recipe

    def __init__(self, work: Path, recipe: Recipe, gates: bool = True) -> None:
        super().__init__(work, recipe, GATES, hold=gates)

    def run(self) -> None:
        """All stages that are not yet there."""
        self.check_recipe()
        world = make_world(self.recipe.dialogues, self.recipe.seed, int(ENCODER_SIZES["image_size"]))  # type: ignore[call-overload]
        encoder, tokenizer = self._encoder(world)
        vision, text = embed_world(encoder, world, tokenizer)
        self._audio(world, vision)
        if not (self.work / "llm" / "config.json").is_file():
            torch.manual_seed(self.recipe.seed)
            make_language_model(self.work / "llm", world, self._mapping()["prompt"])
        model = self._stage("memory", train_memory, self.recipe.memory, world, vision, text)
        model = self._stage("language", train_language, self.recipe.language, world, vision, text)
        self._save_qformer(model)
        model.freeze()
        model.config = dataclasses.replace(
            model.config,
            qformer_weights="assets/tiny/qformer.safetensors",
            language=dataclasses.replace(model.config.language, path="assets/tiny/llm"),
        )
        model.save_pretrained(self.work / "dialogue")

    def _mapping(self) -> dict[str, Any]:
        mapping = load_model(MODEL_CONFIG, DialogueConfig)
        mapping |= {"pretrained": None, "qformer_weights": None}
        mapping["memory_bank_length"] = self.recipe.memory_bank_length
        mapping["language"] = {**mapping["language"], "path": str(self.work / "llm")}
        return mapping

    def _encoder(self, world: World) -> tuple[ImageBind, Tokenizer]:
        vocabulary, weights = self.work / "bpe.txt.gz", self.work / "imagebind.safetensors"
        train_vocabulary([*world.texts, *world.answers], VOCABULARY_MERGES, vocabulary)
        tokenizer = Tokenizer(vocabulary)
        config = ImageBindConfig.from_dict({**ENCODER_SIZES, "vocab_size": tokenizer.vocab_size})
        if not weights.is_file():
            torch.manual_seed(self.recipe.seed)
            trained = train_encoder(
                world, config, tokenizer, self.recipe.encoder, self.report, self.recipe.held_out
            )
            self.gate("encoder")
            save(halves(trained.state_dict()), weights)
        (self.work / "imagebind.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
        # Read back, so that the later stages see what half precision leaves of it.
        return load_imagebind(weights, config), tokenizer

    def _audio(self, world: World, vision: Tensor) -> None:
        """Add the audio tower to the encoder's file; the tensors that are in it stay as they are."""
        weights = self.work / "imagebind.safetensors"
        if "audio" in available_towers(weights):
            return
        torch.manual_seed(self.recipe.seed)
        config = read_config(str(self.work / "imagebind.json"))
        trained = train_audio(world, vision, config, self.recipe.audio, self.report, self.recipe.held_out)
        self.gate("audio")
        save(load_file(weights) | halves(trained.state_dict()), weights)

    def _stage(
        self, name: str, train: Callable[..., None], recipe: Any, world: World, vision: Tensor, text: Tensor
    ) -> DialogueModel:
        """Train or read one of the later stages; all of the dialogue model's own tensors are kept."""
        torch.manual_seed(self.recipe.seed)
        model = DialogueModel.from_config(self._mapping())
        own, done = self.work / "stages" / "dialogue.safetensors", self.work / "stages" / f"{name}.done"
        if own.is_file():
            model.load_trainable_state(load_file(own))
        if done.is_file():
            return model
        train(model, world, vision, text, recipe, self.report, self.recipe.held_out)
        self.gate(name)
        own.parent.mkdir(exist_ok=True)
        save({k: v.contiguous() for k, v in model.state_dict().items() if not k.startswith("language.")}, own)
        causal = model.language.causal
        assert isinstance(causal, LlamaForCausalLM)
        causal.half().save_pretrained(self.work / "llm")
        done.touch()
        return model

    def _save_qformer(self, model: DialogueModel) -> None:
        """Q-Former and llm_proj under LAVIS's names, in half precision."""
        state = {lavis_name(name): value for name, value in model.qformer.state_dict().items()}
        state |= {f"llm_proj.{name}": value for name, value in model.llm_proj.state_dict().items()}
        save(halves(state), self.work / "qformer.safetensors")


def publish(work: Path, out: Path) -> None:
    """Copy what the commands read, and the record of how it was made, from the work folder to `out`."""
    for name in ("imagebind.safetensors", "imagebind.json", "bpe.txt.gz", "qformer.safetensors"):
        out.mkdir(parents=True, exist_ok=True)
        shutil.copy(work / name, out / name)
    for name in ("recipe.json", "training_log.jsonl"):
        shutil.copy(work / name, out / name)
    for name in ("llm", "dialogue"):
        shutil.copytree(work / name, out / name, dirs_exist_ok=True)


def main(arguments: Sequence[str]) -> None:
    """The command line of `python -m malmm train-tiny`."""
    parser = argparse.ArgumentParser(prog="python -m malmm train-tiny", description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/train-tiny"), help="where the stages are kept"
    )
    parser.add_argument("--out", type=Path, default=Path("assets/tiny"), help="where the finished weights go")
    parser.add_argument("--dialogues", type=int, default=Recipe.dialogues)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--memory-bank-length", type=int, default=Recipe.memory_bank_length)
    parser.add_argument("--encoder-steps", type=int, default=EncoderRecipe.steps)
    parser.add_argument("--audio-steps", type=int, default=AudioRecipe.steps)
    parser.add_argument("--memory-steps", type=int, default=MemoryRecipe.steps)
    parser.add_argument("--language-steps", type=int, default=LanguageRecipe.steps)
    parser.add_argument("--no-gates", action="store_true", help="go on although a stage's figures are poor")
    given = parser.parse_args(list(arguments))
    recipe = Recipe(
        dialogues=given.dialogues,
        seed=given.seed,
        memory_bank_length=given.memory_bank_length,
        encoder=EncoderRecipe(steps=given.encoder_steps),
        audio=AudioRecipe(steps=given.audio_steps),
        memory=MemoryRecipe(steps=given.memory_steps),
        language=LanguageRecipe(steps=given.language_steps),
    )
    Trainer(given.work, recipe, gates=not given.no_gates).run()
    publish(given.work, given.out)
