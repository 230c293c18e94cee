"""A causal language model of transformers as the memory's reader."""

from typing import Any

from torch import Tensor

from malmm.errors import InputError
from malmm.models.language import LanguageConfig, LanguageModel

_UNKNOWN_LIMIT = 2**31  # of a configuration that does not say how many positions the model has


class CausalReader:
    """An instruction-tuned model, or any other: the dialogue's own behind what it sees, or another one alone.

    A prompt is the user's message of the tokenizer's chat template where it has one, else plain text. It is
    read as a whole or not at all: what is cut off could be the instruction that reminders are no commands.
    """

    def __init__(
        self,
        language: LanguageModel,
        max_new_tokens: int | None = None,
        visual: Tensor | None = None,
        **generation: Any,
    ) -> None:
        """max_new_tokens: of what it writes; None: 256, and no more than half of what the model reads.

        visual: [1, Q, E] in front of every prompt; None: it sees nothing. generation: further fields of
        `GenerationOptions`; greedy if none is given.
        """
        self.language = language
        self.visual = visual
        self.positions = getattr(language.causal.config, "max_position_embeddings", _UNKNOWN_LIMIT)
        if max_new_tokens is None:
            max_new_tokens = min(256, self.positions // 2)
        self.generation = {"max_new_tokens": max_new_tokens, **generation}

    @classmethod
    def load(
        cls,
        path: str,
        precision: str = "nf4",
        device: str = "auto",
        max_new_tokens: int | None = None,
        **generation: Any,
    ) -> "CausalReader":
        """A Hugging Face folder or hub name; InputError where something is missing or impossible."""
        config = LanguageConfig(path, precision=precision, device=device)
        return cls(LanguageModel.load(config), max_new_tokens, None, **generation)

    def read(self, prompt: str) -> str:
        """What the model writes after `prompt`. Raises InputError for one that is too long for it."""
        ids = self.prompt_ids(prompt)
        if len(ids) > self.longest:
            raise InputError(
                f"the prompt with its reminders has {len(ids)} tokens, {self.language.config.path} reads "
                f"{self.longest} and an answer: lower memory.reflection.max_characters or max_reminders"
            )
        return self.language.complete(ids, self.visual, **self.generation)

    def fits(self, prompt: str) -> bool:
        """Whether the model can read the whole prompt and answer."""
        return len(self.prompt_ids(prompt)) <= self.longest

    @property
    def longest(self) -> int:
        """Tokens that a prompt may have, so that the answer still fits behind it."""
        seen = 0 if self.visual is None else self.visual.shape[1]
        return self.positions - seen - self.generation["max_new_tokens"]

    def prompt_ids(self, prompt: str) -> list[int]:
        """Ids of a prompt as the model was taught to read one."""
        tokenizer = self.language.tokenizer
        if not tokenizer.chat_template:
            return self.language.prompt_ids(prompt, longest=_UNKNOWN_LIMIT)
        messages = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tokenizer.encode(text, add_special_tokens=False)  # the template has them
