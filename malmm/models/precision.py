"""Loading a frozen causal language model of transformers: the one place where precision and device are chosen."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from malmm.errors import InputError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PRECISIONS = ("nf4", "int8", *DTYPES)
WEIGHT_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)
# A pad token that a vocabulary reserves for the purpose, in the order of preference.
RESERVED_PADS = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]")


def resolve_device(device: str) -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU; InputError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"language.device is {device!r}: set auto, cpu, cuda or cuda:<number>") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"language.device is {device!r} but no CUDA device is present: set auto or cpu")
    return resolved


def locate(path: str) -> tuple[str, bool]:
    """Where a language model lies: (folder or hub name, whether it is a local folder).

    Only `owner/name` with no such owner folder here is taken for a hub name; everything else must be a folder, so that
    a mistyped path never becomes a download.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return str(folder), True
    is_hub_name = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", path) and not Path(path).parent.exists()
    if folder.exists() or not is_hub_name:
        raise InputError(
            f"language model folder {path} does not exist: set language.path (--llm_model_path) to a folder with "
            "config.json, weights and tokenizer, or to a hub name of the form owner/name"
        )
    return path, False


def _check_folder(folder: Path) -> None:
    """InputError for the first of configuration, weights and tokenizer that the folder lacks."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no language model: config.json is missing")
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHT_FILES):
        raise InputError(
            f"{folder} has no weights: put model.safetensors (or pytorch_model.bin) beside config.json"
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            f"{folder} has no tokenizer: copy tokenizer.json and tokenizer_config.json beside its weights"
        )


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name, with a pad token that needs no new embedding row."""
    name, is_local = locate(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=is_local)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"the tokenizer of {name} cannot be loaded: {first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {name} names no eos_token: set it in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        vocabulary = tokenizer.get_vocab()
        tokenizer.pad_token = next((pad for pad in RESERVED_PADS if pad in vocabulary), tokenizer.eos_token)
    return tokenizer


def load_causal(path: str, precision: str, compute_dtype: str, device: str) -> PreTrainedModel:
    """A causal language model in eval mode without gradients, its weights in the given precision.

    precision: nf4 (bitsandbytes NF4 with double quantisation), int8 (LLM.int8), bf16, fp16 or fp32; compute_dtype is what
    nf4 and int8 layers compute in and what all other layers are stored in. Raises InputError.
    """
    if precision not in PRECISIONS:
        raise InputError(f"language.precision is {precision!r}: set one of {', '.join(PRECISIONS)}")
    if compute_dtype not in DTYPES:
        raise InputError(f"language.compute_dtype is {compute_dtype!r}: set one of {', '.join(DTYPES)}")
    name, is_local = locate(path)
    target = resolve_device(device)
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=is_local)
        options: dict[str, Any] = {"dtype": DTYPES.get(precision, DTYPES[compute_dtype])}
        if precision not in DTYPES:
            _check_quantisation(config, precision, target)
            options["quantization_config"] = _quantisation(precision, compute_dtype)
        model, report = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            local_files_only=is_local,
            device_map={"": target},
            output_loading_info=True,
            **options,
        )
    except InputError:
        raise
    except Exception as error:  # transformers raises many kinds for files that are damaged or do not fit
        raise InputError(
            f"the language model {name} cannot be loaded as {precision}: {first_line(error)}"
        ) from error
    if report["missing_keys"]:
        raise InputError(
            f"the weights of {name} lack {len(report['missing_keys'])} tensors of its config.json, "
            f"for example {sorted(report['missing_keys'])[0]}"
        )
    _settle(model)
    return model


def first_line(error: Exception) -> str:
    """The first line of an error's text, for a one-sentence message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _quantisation(precision: str, compute_dtype: str) -> BitsAndBytesConfig:
    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[compute_dtype],
    )


def _check_quantisation(config: Any, precision: str, device: torch.device) -> None:
    """InputError with what to set instead where bitsandbytes cannot hold this model in this precision."""
    for package in ("bitsandbytes", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"language.precision {precision} needs the package {package}: install it or set bf16 or fp32"
            )
    if precision == "nf4" and device.type == "cpu":
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        for name, layer in model.named_modules():
            if (
                isinstance(layer, nn.Linear)
                and layer is not model.get_output_embeddings()
                and layer.in_features % 64
            ):
                raise InputError(
                    f"language.precision nf4 is impossible on a CPU for this model: the rows of {name} have "
                    f"{layer.in_features} numbers, not a multiple of the block of 64: set language.precision to int8, bf16 or fp32"
                )


def _settle(model: PreTrainedModel) -> None:
    """Freeze, set eval mode, and forget the sampling defaults that a folder's generation_config.json may carry."""
    model.requires_grad_(False)
    model.eval()
    kept = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=kept.bos_token_id, eos_token_id=kept.eos_token_id, pad_token_id=kept.pad_token_id
    )
    for module in model.modules():
        # bitsandbytes would repack a layer's weight at its first use without gradient on CPUs with AVX512-BF16; the
        # repacked weight passes no gradient, so a model that has once generated could no longer be trained through.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
