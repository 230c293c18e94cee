"""The frozen language model that answers: [visual; prompt] in, loss on answers or generated text out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from malmm.errors import InputError
from malmm.models.four_bit import PackedLayers
from malmm.models.generation import GenerationOptions, generate_ids, stream_text
from malmm.models.label_loss import IGNORED, label_logprobs
from malmm.models.option_tree import option_logprobs
from malmm.models.precision import load_causal, load_tokenizer


@dataclass(frozen=True)
class LanguageConfig:
    """Which language model, in which precision, where, and how long its texts may be (in tokens)."""

    path: str  # a Hugging Face folder, or a hub name owner/name
    precision: str = "nf4"  # nf4, int8, bf16, fp16 or fp32
    compute_dtype: str = "bf16"  # of what nf4 and int8 do not store: bf16, fp16 or fp32
    device: str = "auto"
    max_prompt_tokens: int = 512
    max_answer_tokens: int = 32
    special_tokens: str | None = (
        None  # lavis: `</s>` is bos, eos and unk, as InstructBLIP's Vicuna was trained
    )

    def __post_init__(self) -> None:
        for name, least in (("max_prompt_tokens", 2), ("max_answer_tokens", 1)):
            if getattr(self, name) < least:
                raise InputError(f"language.{name} is {getattr(self, name)}: set it to {least} or more")
        if self.special_tokens not in (None, "lavis"):
            raise InputError(f"language.special_tokens is {self.special_tokens!r}: set it to null or lavis")


class LanguageModel(nn.Module):
    """A frozen causal language model of transformers and its tokenizer.

    R rows, one for each question; Q visual tokens; E the width of a token; S the length of a row; V the
    vocabulary. Gradient flows to the visual tokens only.
    """

    def __init__(
        self, causal: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: LanguageConfig
    ) -> None:
        super().__init__()
        self.causal: Any = causal
        self.tokenizer: Any = tokenizer
        self.config = config
        if max(tokenizer.get_vocab().values()) >= self.vocab_size:
            raise InputError(
                f"the tokenizer in {config.path} has ids beyond its model's {self.vocab_size} embeddings: "
                "name a folder whose tokenizer and weights belong together"
            )
        self.causal.generation_config = _generation_defaults(self.causal.generation_config, tokenizer)
        self._answer_prefix = _answer_prefix(tokenizer)
        self._packed_layers = PackedLayers(causal)
        self.causal.requires_grad_(False)
        self.eval()

    @classmethod
    def load(cls, config: LanguageConfig) -> "LanguageModel":
        """Model and tokenizer of `config.path`; InputError where something is missing or impossible."""
        tokenizer = load_tokenizer(config.path, config.special_tokens)
        causal = load_causal(config.path, config.precision, config.compute_dtype, config.device)
        return cls(causal, tokenizer, config)

    @property
    def width(self) -> int:
        """E, the width of a token embedding."""
        return self.causal.get_input_embeddings().weight.shape[1]

    @property
    def vocab_size(self) -> int:
        """V, the rows of the embedding, which may be more than the tokenizer uses."""
        return self.causal.get_input_embeddings().weight.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the embeddings lie."""
        return self.causal.get_input_embeddings().weight.device

    def train(self, mode: bool = True) -> "LanguageModel":
        """Stay in eval mode, whatever the model around it does: a frozen model's dropout never acts."""
        return super().train(False)

    def add_lora(self, rank: int = 8, alpha: int = 16) -> None:
        """Put low-rank adapters, which learn, beside all linear layers but the head (needs peft)."""
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise InputError("trainable: lora needs peft: pip install peft, or take lora out") from error
        self.causal.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"))
        self.eval()

    # -- loss ----------------------------------------------------------------------------------------

    def answer_loss(
        self, visual: Tensor, prompts: Sequence[str], answers: Sequence[str]
    ) -> tuple[Tensor, int]:
        """Cross-entropy of the answers: (mean over the tokens of all answers and their eos, their number).

        visual [R, Q, E]. To accumulate gradients exactly, weigh each part's mean by its number of tokens.
        """
        sums, counts = self.answer_logprobs(visual, prompts, answers)
        tokens = int(counts.sum())
        return -sums.sum() / tokens, tokens

    def answer_logprobs(
        self, visual: Tensor, prompts: Sequence[str], answers: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of each answer with its eos: (sum [R] float32, number of tokens [R] int64)."""
        embeddings, mask, labels = self.answer_rows(visual, prompts, answers)
        return self.label_logprobs(embeddings, mask, labels)

    def label_logprobs(self, embeddings: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of the labelled tokens of each row: (sum [R] float32, number [R] int64).

        embeddings [R, S, E]; mask [R, S], 1 where there is a token; labels [R, S], -100 where nothing is
        learned. Vocabulary logits are computed only where the next token is labelled, the softmax in float32.
        A frozen model takes the gradient of the embeddings at once, a few rows at a time (label_loss.py).
        """
        return label_logprobs(self.causal, embeddings, mask, labels)

    def option_logprobs(
        self, visual: Tensor, prompts: Sequence[str], options: Sequence[Sequence[str]]
    ) -> list[tuple[Tensor, Tensor]]:
        """`answer_logprobs` of the O options, at least one, of each row: (sum [O], number of tokens [O]).

        visual [R, Q, E]. [visual; prompt] of a row is read once, and so are beginnings that options share
        (option_tree.py); rows may have different options.
        """
        return option_logprobs(self, visual, prompts, options)

    def answer_rows(
        self, visual: Tensor, prompts: Sequence[str], answers: Sequence[str]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[visual; prompt; answer; eos; padding]: embeddings [R, S, E], mask [R, S], labels [R, S]."""
        prompt_ids = [self.prompt_ids(prompt) for prompt in prompts]
        return self.id_rows(visual, prompt_ids, [self.answer_ids(answer) for answer in answers])

    def id_rows(
        self, visual: Tensor, prompt_ids: Sequence[list[int]], answer_ids: Sequence[list[int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`answer_rows` of prompts and answers that are ids already."""
        ids, labels = [], []
        for prompt, answer in zip(prompt_ids, answer_ids, strict=True):
            ids.append(torch.tensor(prompt + answer))
            labels.append(torch.tensor([IGNORED] * len(prompt) + answer))
        padded = pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        learned = pad_sequence(labels, batch_first=True, padding_value=IGNORED).to(self.device)
        learned = functional.pad(learned, (visual.shape[1], 0), value=IGNORED)
        return *self._behind(visual, padded, mask), learned

    # -- generation ----------------------------------------------------------------------------------

    def generate(self, visual: Tensor, prompts: Sequence[str], **generation: Any) -> list[str]:
        """Answers to R prompts behind the visual tokens [R, Q, E].

        `generation`: fields of `GenerationOptions`; greedy if none is given. Returns
        R * num_return_sequences texts, a row's own together, best first; what a row gets does not depend on
        the rows beside it (but for rounding). Raises InputError for an unknown or impossible option.
        """
        options = self._options(generation)
        with torch.no_grad(), self._packed_layers.in_use():
            ids = generate_ids(self.causal, *self.prompt_rows(visual, prompts), options)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def stream(self, visual: Tensor, prompt: str, **generation: Any) -> Iterator[str]:
        """The answer to one prompt behind visual [1, Q, E], in pieces; joined, it equals `generate`'s.

        Beams are known only at the end: with num_beams > 1 the answer comes in one piece.
        """
        options = self._options(generation)
        if options.num_beams > 1 or options.compat:
            yield self.generate(visual, [prompt], **generation)[0]
            return
        with torch.no_grad():
            embeddings, mask = self.prompt_rows(visual, [prompt])
        with self._packed_layers.in_use():
            yield from stream_text(self.causal, self.tokenizer, embeddings, mask, options)

    def complete(self, ids: Sequence[int], visual: Tensor | None = None, **generation: Any) -> str:
        """What the model writes after a prompt that is ids already, special ones included.

        visual: [1, Q, E] in front of it; None: nothing is seen. `generation` as for `generate`.
        """
        options, row = self._options(generation), torch.tensor([list(ids)])
        seen = torch.empty(1, 0, self.width, device=self.device) if visual is None else visual
        with torch.no_grad(), self._packed_layers.in_use():
            written = generate_ids(self.causal, *self._behind(seen, row, torch.ones_like(row)), options)
        return self.tokenizer.decode(written[0], skip_special_tokens=True).strip()

    def prompt_rows(self, visual: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """[visual; padding; prompt], ready to go on: embeddings [R, S, E] and mask [R, S]."""
        rows = [self.prompt_ids(prompt) for prompt in prompts]
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return self._behind(visual, ids, mask)

    def _options(self, generation: Mapping[str, Any]) -> GenerationOptions:
        return GenerationOptions.from_dict({"max_new_tokens": self.config.max_answer_tokens, **generation})

    # -- tokens --------------------------------------------------------------------------------------

    def prompt_ids(self, prompt: str, longest: int | None = None) -> list[int]:
        """Ids of a prompt, bos (where the tokenizer has one) first, without blanks at the end.

        A prompt of more than `longest` tokens (None: max_prompt_tokens) loses its oldest and keeps bos.
        """
        ids = self.tokenizer.encode(prompt.rstrip(), add_special_tokens=False)
        bos = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        excess = len(bos) + len(ids) - (longest or self.config.max_prompt_tokens)
        return bos + ids[max(excess, 0) :]

    def answer_ids(self, answer: str, longest: int | None = None) -> list[int]:
        """Ids of an answer and eos as they follow a prompt: what generation would have to produce.

        The answer is tokenised alone, with the blank in front that parts it from the prompt. One of more than
        `longest` tokens (None: max_answer_tokens) is cut and then has no eos.
        """
        ids = self.tokenizer.encode(self._answer_prefix + answer.strip(), add_special_tokens=False)
        return [*ids, self.tokenizer.eos_token_id][: longest or self.config.max_answer_tokens]

    def _behind(self, visual: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of ids [R, L] and their mask behind the visual tokens: [R, Q + L, E], [R, Q + L]."""
        embeddings = self.causal.get_input_embeddings()(ids.to(self.device))
        seen = torch.cat([mask.new_ones(visual.shape[:2]), mask], dim=1)
        return torch.cat([visual.to(embeddings), embeddings], dim=1), seen.to(self.device)


def _generation_defaults(stored: GenerationConfig, tokenizer: Any) -> GenerationConfig:
    """Special tokens only: sampling that a folder's generation_config.json sets must not decide a score.

    A model may end its answer with any eos of its generation_config.json, or with its tokenizer's.
    """
    ends = torch.as_tensor(stored.eos_token_id if stored.eos_token_id is not None else []).flatten().tolist()
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id if stored.bos_token_id is None else stored.bos_token_id,
        eos_token_id=list(dict.fromkeys([tokenizer.eos_token_id, *ends])),
        pad_token_id=tokenizer.pad_token_id,
    )


def _answer_prefix(tokenizer: Any) -> str:
    """What stands before an answer so that its ids alone are those that it has behind a prompt.

    A blank; nothing where the tokenizer itself puts a blank in front of every text (sentencepiece).
    """
    head, joined, alone = (tokenizer.encode(text, add_special_tokens=False) for text in ("a:", "a: a", "a"))
    return "" if joined == head + alone else " "
