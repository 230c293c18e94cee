"""Small random Llamas with tokenizers, as folders, and the tiny one of the reference values."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = ["Question: what colour is it? Answer: red", "yes no green blue two left right", "is there a ball?"]


def byte_tokenizer(**specials: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE as Llama 3 has one: blanks belong to the word behind them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"bos_token": "<|begin|>", "eos_token": "<|end|>", **specials}
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*names.values(), "<|finetune_right_pad_id|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def save_tiny_llama(folder: Path, hidden: int = 128, intermediate: int = 256, **config: object) -> Path:
    """A folder as transformers writes it: config.json, model.safetensors (float32), tokenizer files."""
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder)
    sizes = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.1,
        **config,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(sizes).save_pretrained(folder)
    return folder


def reference_llama(shared: Path) -> LlamaForCausalLM:
    """The tiny language model of parity/malmm."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        rms_norm_eps=1e-6,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    state = load_file(shared / "parity/malmm/llm_small_state.safetensors")
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict({k.removeprefix("llm_model."): v for k, v in state.items() if "inv_freq" not in k})
    return model


def reference_tokenizer() -> PreTrainedTokenizerFast:
    """Its tokenizer: `w<k>` has id k + 3, bos and eos are both `</s>` (2), the pad is the last id."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{k}": k + 3 for k in range(60)}, "[PAD]": 63}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", unk_token="<unk>", pad_token="[PAD]"
    )
