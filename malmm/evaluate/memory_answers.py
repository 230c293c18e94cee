"""Answers from what was remembered: by the dialogue model from a picture, by its language model from texts.

A remembered picture comes back as it does in the chat: its stored embedding with its caption becomes a turn
before the question. What was told reaches the language model as reminders in its prompt.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from rich.progress import Progress
from torch import Tensor

from malmm.memory.recall import Recalled
from malmm.memory.record import Record, Terms, Vector
from malmm.memory.reminders import add_reminders
from malmm.memory.settings import MemorySettings
from malmm.models.dialogue import DialogueModel

_BATCH = 64


@dataclass(frozen=True)
class Heard:
    """A turn of the conversation: the picture's embedding [C] and that of what was said with it [C]."""

    vision: Vector
    text: Vector


class Answers:
    """Questions to a model, each asked once whatever the number of rows that ask it."""

    def __init__(self, model: DialogueModel) -> None:
        self.model = model.eval()
        self._asked: dict[Hashable, tuple[str, Sequence[Heard], str]] = {}
        self._given: dict[Hashable, str] = {}

    def ask(self, key: Hashable, question: str, turns: Sequence[Heard], prompt: str = "") -> Hashable:
        """Note a question to be asked after these turns, or without any by `prompt` alone -> the key.

        turns: the last one is the question's own. key: whoever gives the same one gets the same answer.
        """
        self._asked.setdefault(key, (question, turns, prompt))
        return key

    def __getitem__(self, key: Hashable) -> str:
        return self._given[key]

    @torch.inference_mode()
    def answer_all(self, bar: Progress) -> None:
        """Ask everything that was noted, in batches of conversations of equal length."""
        alike: dict[int, list[Hashable]] = defaultdict(list)
        for key, (_, turns, _) in self._asked.items():
            alike[len(turns)].append(key)
        task = bar.add_task("answering", total=len(self._asked))
        for length, keys in sorted(alike.items()):
            for start in range(0, len(keys), _BATCH):
                part = keys[start : start + _BATCH]
                given = self._answer([self._asked[key] for key in part], length)
                self._given.update(zip(part, given, strict=True))
                bar.advance(task, len(part))

    def _answer(self, asked: Sequence[tuple[str, Sequence[Heard], str]], length: int) -> list[str]:
        model = self.model
        if length == 0:
            nothing = torch.zeros(len(asked), 0, model.language.width, device=model.language.device)
            return model.language.generate(
                nothing, [prompt for _, _, prompt in asked], **model.config.generation
            )
        state = model.init_state(len(asked))
        for place in range(length):
            vision = self._stack([turns[place].vision for _, turns, _ in asked])
            text = self._stack([turns[place].text for _, turns, _ in asked])
            queries, state = model.observe(vision, text, state)
        return model.generate(queries, [question for question, _, _ in asked])

    def _stack(self, vectors: Sequence[Vector]) -> Tensor:
        """[C] each -> [R, C] where the model is."""
        return torch.stack([torch.from_numpy(vector) for vector in vectors]).to(self.model.language.device)


def prompt_with_reminders(
    model: DialogueModel, question: str, found: Sequence[Record], settings: MemorySettings, now: float
) -> str:
    """The prompt of a question with what was found as reminders; the best come first in `found`."""
    nothing = Terms(0.0, 0.0, 0.0, 0.0)
    recalled = [Recalled(record, 0.0, nothing, None, rank) for rank, record in enumerate(found, 1)]
    return add_reminders(model.prompt(question), recalled, settings, now)
