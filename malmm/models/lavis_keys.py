"""The Q-Former's parameters under the names that LAVIS, InstructBLIP and MA-LMM checkpoints give them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from malmm.errors import InputError

_BERT = "Qformer.bert."
_NAMES = (  # ours, and LAVIS's, which are BERT's; more special ones first
    ("layers.", "encoder.layer."),
    ("self_attention.out.", "attention.output.dense."),
    ("self_attention.norm.", "attention.output.LayerNorm."),
    ("self_attention.", "attention.self."),
    ("cross_attention.out.", "crossattention.output.dense."),
    ("cross_attention.norm.", "crossattention.output.LayerNorm."),
    ("cross_attention.", "crossattention.self."),
    ("query_ffn.up.", "intermediate_query.dense."),
    ("query_ffn.down.", "output_query.dense."),
    ("query_ffn.norm.", "output_query.LayerNorm."),
    ("text_ffn.up.", "intermediate.dense."),
    ("text_ffn.down.", "output.dense."),
    ("text_ffn.norm.", "output.LayerNorm."),
    ("word_embeddings.", "embeddings.word_embeddings."),
    ("position_embeddings.", "embeddings.position_embeddings."),
    ("embedding_norm.", "embeddings.LayerNorm."),
)


def lavis_name(name: str) -> str:
    """`layers.0.query_ffn.up.bias` -> `Qformer.bert.encoder.layer.0.intermediate_query.dense.bias`."""
    if name == "query_tokens":
        return name
    for ours, theirs in _NAMES:
        name = name.replace(ours, theirs)
    return _BERT + name


def from_lavis(state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `state_dict` that make up a Q-Former with parameters `own`, under their names in `own`.

    Passed over are a checkpoint's other parts (`ln_vision`, `llm_proj`, `visual_encoder`, ...), the buffer
    `position_ids` and BERT's word head `Qformer.cls`, which no one uses.

    Raises:
        InputError: keys are missing, unknown or of another shape; the first of them are named.
    """
    names = {lavis_name(name): name for name in own}
    given = {key: state_dict[key] for key in state_dict if key == "query_tokens" or key.startswith(_BERT)}
    given.pop(_BERT + "embeddings.position_ids", None)
    _refuse("lacks", [key for key in names if key not in given])
    _refuse("has, unknown to this Q-Former,", [key for key in given if key not in names])
    shapes = {key: (list(given[key].shape), list(own[name].shape)) for key, name in names.items()}
    _refuse("has other sizes:", [f"{key} {a} instead of {b}" for key, (a, b) in shapes.items() if a != b])
    return {name: given[key] for key, name in names.items()}


def _refuse(what: str, keys: list[str]) -> None:
    if keys:
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise InputError(
            f"the Q-Former checkpoint {what} {', '.join(keys[:3])}{more}: set the sizes it was made with"
        )
