"""Checkpoints of LAVIS, InstructBLIP and MA-LMM: every key, every shape, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from malmm.errors import InputError
from malmm.models.lavis_keys import lavis_name
from malmm.models.qformer import QFormer, QFormerConfig

SMALL = QFormerConfig(16, 2, 3, 2, 24, 6, 4, 20, 8)


def checkpoint() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {lavis_name(name): tensor for name, tensor in QFormer(SMALL).state_dict().items()}


@pytest.mark.parametrize(("file", "tensors"), [("instructblip_vicuna7b", 845), ("malmm_finetuned", 367)])
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_published_layouts_fit_key_by_key(shared: Path, file: str, tensors: int) -> None:
    layout = json.loads((shared / "parity/malmm/checkpoint_layout.json").read_text())
    listed = {key: value["shape"] for key, value in layout[file]["tensors"].items()}
    assert len(listed) == tensors
    with torch.device("meta"):
        qformer = QFormer(QFormerConfig())  # 768 wide, 12 layers, 32 queries, vocabulary 30523, encoder 1408
        state = {key: torch.empty(shape) for key, shape in listed.items()}
    own = {lavis_name(name): list(tensor.shape) for name, tensor in qformer.state_dict().items()}
    ours = {k: s for k, s in listed.items() if k.startswith("Qformer.") or k == "query_tokens"}
    positions = ours.pop("Qformer.bert.embeddings.position_ids")
    assert positions == [1, 512]
    assert own == ours
    counts = layout["parameter_counts"]
    numbers = sum(p.numel() for p in qformer.parameters())
    assert numbers + 512 == counts["Qformer_with_buffers"] + counts["query_tokens"]
    qformer.load_lavis_state_dict(state)


def test_loading_gives_every_tensor_its_value() -> None:
    state = checkpoint()
    extras = [
        "ln_vision.weight",
        "image_pe.weight",
        "llm_proj.bias",
        "llm_model.x",
        "visual_encoder.y",
        "opt_proj.z",
    ]
    positions = {"Qformer.bert.embeddings.position_ids": torch.arange(8)[None]}
    qformer = QFormer(SMALL)
    qformer.load_lavis_state_dict(state | positions | {key: torch.zeros(1) for key in extras})
    for name, tensor in qformer.state_dict().items():
        assert torch.equal(tensor, state[lavis_name(name)])


def test_missing_keys_are_named() -> None:
    state = checkpoint()
    del state["Qformer.bert.encoder.layer.1.output_query.dense.bias"]
    with pytest.raises(
        InputError, match=r"lacks Qformer\.bert\.encoder\.layer\.1\.output_query\.dense\.bias:"
    ):
        QFormer(SMALL).load_lavis_state_dict(state)
    with pytest.raises(InputError, match=r"lacks query_tokens, .* and \d+ more"):
        QFormer(SMALL).load_lavis_state_dict({"ln_vision.weight": torch.zeros(1)})


def test_unknown_keys_are_named() -> None:
    state = checkpoint() | {"Qformer.bert.encoder.layer.3.attention.self.key.bias": torch.zeros(16)}
    with pytest.raises(InputError, match=r"unknown to this Q-Former, .*layer\.3\.attention\.self\.key\.bias"):
        QFormer(SMALL).load_lavis_state_dict(state)


def test_other_shapes_are_named_and_nothing_is_loaded() -> None:
    state = checkpoint()
    state["query_tokens"] = torch.zeros(1, 5, 16)
    qformer = QFormer(SMALL)
    before = {name: tensor.clone() for name, tensor in qformer.state_dict().items()}
    with pytest.raises(InputError, match=r"query_tokens \[1, 5, 16\] instead of \[1, 4, 16\]"):
        qformer.load_lavis_state_dict(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in qformer.state_dict().items())
