"""The frozen language model that answers: [visual tokens; prompt] in, loss on answers or generated text out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from malmm.errors import InputError
from malmm.models.precision import load_causal, load_tokenizer

IGNORED = -100


@dataclass(frozen=True)
class LanguageConfig:
    """Which language model, in which precision, on which device, and how long its texts may be (in tokens)."""

    path: str
    precision: str = "nf4"
    compute_dtype: str = "bf16"
    device: str = "auto"
    max_prompt_tokens: int = 512
    max_answer_tokens: int = 32


class LanguageModel(nn.Module):
    """A frozen causal language model of transformers. R rows (one per question), Q visual tokens, E its width."""

    def __init__(
        self, causal: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: LanguageConfig
    ) -> None:
        super().__init__()
        self.causal = causal
        self.tokenizer = tokenizer
        self.config = config
        self._answer_prefix = _answer_prefix(tokenizer)
        rows = causal.get_input_embeddings().weight.shape[0]
        if max(tokenizer.get_vocab().values()) >= rows:
            raise InputError(
                f"the tokenizer of {config.path} has ids beyond the {rows} embeddings of its model: "
                "the two files do not belong together"
            )

    @classmethod
    def load(cls, config: LanguageConfig) -> "LanguageModel":
        """The model and the tokenizer of `config.path`; InputError where something is missing or impossible."""
        tokenizer = load_tokenizer(config.path)
        causal = load_causal(config.path, config.precision, config.compute_dtype, config.device)
        return cls(causal, tokenizer, config)

    @property
    def width(self) -> int:
        """E, the width of a token embedding."""
        return self.causal.get_input_embeddings().weight.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the embeddings lie."""
        return self.causal.get_input_embeddings().weight.device

    def train(self, mode: bool = True) -> "LanguageModel":
        """Stay in eval mode: the language model is frozen, its dropout never acts."""
        return super().train(False)

    def answer_loss(
        self, visual: Tensor, prompts: Sequence[str], answers: Sequence[str]
    ) -> tuple[Tensor, int]:
        """Cross-entropy of the answers: (mean over all answer tokens and eos, how many these are).

        visual: [R, Q, E]. Gradient accumulation weighs a part by its number of tokens: sum(mean * tokens) / sum(tokens).
        """
        sums, counts = self.answer_logprobs(visual, prompts, answers)
        tokens = int(counts.sum())
        return -sums.sum() / max(tokens, 1), tokens

    def answer_logprobs(
        self, visual: Tensor, prompts: Sequence[str], answers: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of each answer with its eos: (sum [R] float32, number of tokens [R] int64)."""
        rows = [
            (self._prompt_ids(prompt), self._answer_ids(answer))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        embeddings, mask, labels = self._training_rows(visual, rows)
        return self.label_logprobs(embeddings, mask, labels)

    def label_logprobs(self, embeddings: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of the labelled tokens of each row: (sum [R] float32, count [R] int64).

        embeddings [R, S, E], mask [R, S] (1: a token), labels [R, S] (-100: none). Vocabulary logits are computed only at
        positions whose next token is labelled; the softmax is taken in float32.
        """
        hidden = self.causal.get_decoder()(
            inputs_embeds=embeddings.to(self._embed.weight.dtype), attention_mask=mask, use_cache=False
        ).last_hidden_state
        targets = labels[:, 1:]
        row, position = (targets != IGNORED).nonzero(as_tuple=True)
        logits = self.causal.get_output_embeddings()(hidden[row, position]).float()
        logprobs = -functional.cross_entropy(logits, targets[row, position], reduction="none")
        sums = logprobs.new_zeros(len(labels)).index_add(0, row, logprobs)
        return sums, torch.bincount(row, minlength=len(labels))

    @torch.no_grad()
    def generate(self, visual: Tensor, prompts: Sequence[str], **generation: Any) -> list[str]:
        """Answers to `prompts` after the visual tokens [R, Q, E]; R * num_return_sequences texts, row by row."""
        options = {"max_new_tokens": self.config.max_answer_tokens, "do_sample": False, **generation}
        embeddings, mask = self._generation_rows(visual, [self._prompt_ids(prompt) for prompt in prompts])
        ids = self.causal.generate(
            inputs_embeds=embeddings, attention_mask=mask, pad_token_id=self.tokenizer.pad_token_id, **options
        )
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def stream(self, visual: Tensor, prompt: str, **generation: Any) -> Iterator[str]:
        """The pieces of one answer as they are produced; visual [1, Q, E]."""
        yield self.generate(visual, [prompt], **generation)[0]

    @property
    def _embed(self) -> nn.Module:
        return self.causal.get_input_embeddings()

    def _prompt_ids(self, prompt: str) -> list[int]:
        """Ids of a prompt, bos first; a long one loses its oldest tokens and keeps bos."""
        ids = self.tokenizer.encode(prompt.rstrip(), add_special_tokens=False)
        bos = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        room = self.config.max_prompt_tokens - len(bos)
        return bos + ids[max(len(ids) - room, 0) :]

    def _answer_ids(self, answer: str) -> list[int]:
        """Ids of an answer and eos, as they follow a prompt; cut at max_answer_tokens."""
        ids = self.tokenizer.encode(self._answer_prefix + answer.strip(), add_special_tokens=False)
        return [*ids, self.tokenizer.eos_token_id][: self.config.max_answer_tokens]

    def _training_rows(
        self, visual: Tensor, rows: Sequence[tuple[list[int], list[int]]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[visual; prompt; answer; padding] of each row: embeddings [R, S, E], mask [R, S], labels [R, S]."""
        joined = [torch.tensor(prompt + answer) for prompt, answer in rows]
        labelled = [torch.tensor([IGNORED] * len(prompt) + answer) for prompt, answer in rows]
        pad = nn.utils.rnn.pad_sequence
        ids = pad(joined, batch_first=True, padding_value=self.tokenizer.pad_token_id).to(self.device)
        mask = pad([torch.ones_like(row) for row in joined], batch_first=True).to(self.device)
        labels = pad(labelled, batch_first=True, padding_value=IGNORED).to(self.device)
        embeddings, seen = self._join(visual, ids, mask)
        return embeddings, seen, functional.pad(labels, (visual.shape[1], 0), value=IGNORED)

    def _generation_rows(self, visual: Tensor, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """[visual; padding; prompt] of each row: embeddings [R, S, E] and mask [R, S]."""
        width = max(len(prompt) for prompt in prompts)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=self.device)
        mask = torch.tensor(
            [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self.device
        )
        return self._join(visual, ids, mask)

    def _join(self, visual: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = self._embed(ids)
        visual = visual.to(embeddings)
        seen = mask.new_ones(visual.shape[:2])
        return torch.cat([visual, embeddings], dim=1), torch.cat([seen, mask], dim=1)


def _answer_prefix(tokenizer: PreTrainedTokenizerBase) -> str:
    """What an answer needs in front so that its ids alone are those it has after a prompt.

    A blank, or nothing where the tokenizer puts a blank in front of every text by itself (sentencepiece).
    """
    head, joined = (tokenizer.encode(text, add_special_tokens=False) for text in ("a:", "a: a"))
    return "" if tokenizer.encode("a", add_special_tokens=False) == joined[len(head) :] else " "
