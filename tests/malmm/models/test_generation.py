import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_llama import reference_llama, reference_tokenizer

from malmm.errors import InputError
from malmm.models.generation import LEGACY, GenerationOptions, generate_ids
from malmm.models.language import LanguageConfig, LanguageModel

RUNS = [
    f"{memory}.gen.{name}"
    for memory in ("M0", "M3")
    for name in ("greedy", "cls", "cap", "cap_min", "nopen", "vqa")
]


@pytest.fixture(scope="module")
def reference(shared):
    tensors = load_file(shared / "parity/malmm/e2e_small.safetensors")
    runs = json.loads((shared / "parity/malmm/e2e_small.json").read_text())
    texts = json.loads((shared / "parity/malmm/qformer_small.json").read_text())["llm_text"]
    return tensors, runs, texts, reference_llama(shared)


def legacy_options(arguments):
    """MA-LMM's arguments, whose lengths count the hidden bos, as ours."""
    rest = {k: v for k, v in arguments.items() if k not in ("max_length", "min_length")}
    longest, shortest = arguments["max_length"] - 1, max(arguments["min_length"] - 1, 0)
    return {"max_new_tokens": longest, "min_new_tokens": shortest, "compat": LEGACY, **rest}


@pytest.mark.parametrize("run", RUNS)
def test_legacy_ids_are_the_original_ones(reference, run):
    tensors, runs, _, llama = reference
    options = GenerationOptions.from_dict(legacy_options(runs[run]["llm_generate_kwargs"]))
    memory = run.split(".")[0]
    embeddings, mask = tensors[f"{memory}.gen.inputs_embeds"], tensors[f"{memory}.gen.attention_mask"]
    ids = generate_ids(llama, embeddings, mask, options)
    assert ids.tolist() == tensors[f"{run}.ids"][:, 1:].tolist()


@pytest.mark.parametrize("run", RUNS)
def test_legacy_texts_are_the_original_ones(reference, run):
    tensors, runs, texts, llama = reference
    language = LanguageModel(llama, reference_tokenizer(), LanguageConfig("reference"))
    embeddings = tensors[f"{run.split('.')[0]}.gen.inputs_embeds"]
    visual = embeddings[:, : -len(texts["prompt_ids"][0])]
    options = legacy_options(runs[run]["llm_generate_kwargs"])
    assert language.generate(visual, texts["prompts"], **options) == runs[run]["text"]


def test_todays_beams_differ_from_the_legacy_ones_only_by_the_option(reference):
    tensors, runs, _, llama = reference
    embeddings, mask = tensors["M0.gen.inputs_embeds"], tensors["M0.gen.attention_mask"]
    options = legacy_options(runs["M0.gen.cls"]["llm_generate_kwargs"]) | {"compat": None}
    ids = generate_ids(llama, embeddings, mask, GenerationOptions.from_dict(options))
    assert len(ids) == 10
    assert ids.tolist() != tensors["M0.gen.cls.ids"][:, 1:].tolist()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_new_token": 3}, "'max_new_token': the nearest one is max_new_tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences is 3 but num_beams is 2"),
        ({"compat": "4.30"}, "compat is '4.30'"),
        ({"compat": LEGACY, "num_beams": 2, "do_sample": True}, "no sampled beams"),
    ],
)
def test_impossible_options_are_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        GenerationOptions.from_dict(options)


def test_min_new_tokens_forbids_an_early_end(reference):
    tensors, _, _, llama = reference
    embeddings, mask = tensors["M3.gen.inputs_embeds"][:1], tensors["M3.gen.attention_mask"][:1]
    first = generate_ids(llama, embeddings, mask, GenerationOptions(max_new_tokens=6))
    assert first.tolist() == [[2]]
    forced = generate_ids(llama, embeddings, mask, GenerationOptions(max_new_tokens=6, min_new_tokens=4))
    assert 2 not in forced[0, :4].tolist()


def test_sampling_follows_the_seed(reference):
    tensors, _, _, llama = reference
    embeddings, mask = tensors["M0.gen.inputs_embeds"], tensors["M0.gen.attention_mask"]
    options = GenerationOptions(max_new_tokens=8, do_sample=True, temperature=2.0, num_return_sequences=2)

    def draw(seed):
        torch.manual_seed(seed)
        return generate_ids(llama, embeddings, mask, options).tolist()

    assert len(draw(1)) == 4
    assert draw(1) == draw(1) != draw(2)
