"""Beam search as transformers 4.31 did it, for MA-LMM's published numbers; see malmm/models/generation.py."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, StoppingCriteriaList

Candidate = tuple[float, int, int]  # summed log-probability, index of the beam that goes on, its next token


class _Row:
    """The finished beams of one row, at most `size`, as (score, ids), worst first."""

    def __init__(self, size: int, length_penalty: float) -> None:
        self.size = size
        self.length_penalty = length_penalty
        self.beams: list[tuple[float, Tensor]] = []
        self.settled = False

    def add(self, ids: Tensor, total: float) -> None:
        """Keep a beam if it is among the best; ids: with the hidden bos, without eos."""
        score = total / len(ids) ** self.length_penalty
        if len(self.beams) < self.size or score > self.beams[0][0]:
            self.beams = sorted([*self.beams, (score, ids)], key=lambda beam: beam[0])[-self.size :]

    def settle(self, best_total: float, length: int) -> None:
        """End the row when no running beam, at this length, beats the worst of `size` finished ones."""
        full = len(self.beams) == self.size
        self.settled = full and self.beams[0][0] >= best_total / length**self.length_penalty


def beam_search(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **model_kwargs: Any,
) -> Tensor:
    """The best beams, ids with the hidden bos first: a `custom_generate` for today's `generate`.

    model: a causal language model; input_ids: [R * beams, 1], the hidden bos; logits_processor: transformers'
    LogitsProcessorList. Returns [R * num_return_sequences, <= max_length]. Where it differs from today's
    search: the score of a beam that is cut off at max_length is divided by a length that includes the hidden
    bos, and at the end all running beams become candidates.
    """
    size, pad = generation_config.num_beams, generation_config.pad_token_id
    eos = torch.as_tensor(generation_config.eos_token_id).flatten().tolist()
    rows = [_Row(size, generation_config.length_penalty) for _ in range(len(input_ids) // size)]
    totals = torch.full((len(rows), size), -1e9, device=input_ids.device)  # [R, beams]
    totals[:, 0] = 0.0  # at first all beams of a row are the same, so only one may go on
    first = True
    while True:
        inputs = model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=None if first else 1, is_first_iteration=first, **model_kwargs
        )
        outputs = model(**inputs, return_dict=True)
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
        first = False
        logprobs = logits_processor(input_ids, outputs.logits[:, -1].float().log_softmax(dim=-1))
        chosen = _choose(rows, input_ids, totals, logprobs, eos, pad)
        sums, parents, tokens = (
            torch.tensor(column, device=input_ids.device) for column in zip(*chosen, strict=True)
        )
        totals = sums.view_as(totals)
        input_ids = torch.cat([input_ids[parents], tokens[:, None]], dim=1)
        model_kwargs["past_key_values"].reorder_cache(parents)
        if all(row.settled for row in rows) or bool(stopping_criteria(input_ids, None).all()):
            break
    for index, total in enumerate(totals.flatten().tolist()):
        if not rows[index // size].settled:
            rows[index // size].add(input_ids[index], total)
    kept = generation_config.num_return_sequences
    best = [ids for row in rows for _, ids in list(reversed(row.beams))[:kept]]
    ended = [torch.cat([ids, ids.new_tensor(eos[:1])])[: generation_config.max_length] for ids in best]
    return pad_sequence(ended, batch_first=True, padding_value=pad)


def _choose(
    rows: list[_Row], input_ids: Tensor, totals: Tensor, logprobs: Tensor, eos: list[int], pad: int
) -> list[Candidate]:
    """The beams that go on, `size` a row; those that end here are added to their row.

    input_ids [R * beams, L], totals [R, beams], logprobs [R * beams, V].
    """
    size, vocabulary = totals.shape[1], logprobs.shape[1]
    scores = (totals.view(-1, 1) + logprobs).view(len(rows), -1)  # [R, beams * V]
    best, flat = (part.tolist() for part in scores.topk(max(2, 1 + len(eos)) * size))
    chosen: list[Candidate] = []
    for number, row in enumerate(rows):
        if row.settled:
            chosen += [(0.0, number * size, pad)] * size
            continue
        ranked = [
            (total, number * size + index // vocabulary, index % vocabulary)
            for total, index in zip(best[number], flat[number], strict=True)
        ]
        for total, beam, token in ranked[:size]:
            if token in eos:
                row.add(input_ids[beam], total)
        chosen += [candidate for candidate in ranked if candidate[2] not in eos][:size]
        row.settle(ranked[0][0], input_ids.shape[1] + 1)
    return chosen
