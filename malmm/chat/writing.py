"""How an answer is written where memories were found: with reminders, for a model that reads them."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from malmm.chat.reader import CausalReader
from malmm.memory.recall import Recalled
from malmm.memory.reflection import Reflection
from malmm.memory.reminders import add_reminders, make_reminders
from malmm.memory.settings import MemorySettings
from malmm.models.dialogue import DialogueModel

Use = Literal["seen", "named", "read", "found"]


@dataclass(frozen=True)
class Answered:
    """An answer's memories, and what became of each."""

    recalled: tuple[Recalled, ...] = ()
    """What was found for the question, best first."""
    picture: Recalled | None = None
    """The earlier picture that was before the model, come back for this question or for one before it."""
    read: tuple[Recalled, ...] = ()
    """Those that stood in the prompt as reminders."""
    named: tuple[Recalled, ...] = ()
    """Those that the model named in its second pass."""
    reasoning: str = ""
    """What it wrote there."""
    problem: str | None = None
    """What of that could not be read."""
    records: tuple[int, ...] = ()
    """Ids of the question and the answer."""

    def behind(self) -> list[Recalled]:
        """The picture that came back first, then the rest of what was found."""
        first = [] if self.picture is None else [self.picture]
        seen = {item.record.id for item in first}
        return first + [item for item in self.recalled if item.record.id not in seen]

    def use_of(self, item: Recalled) -> Use:
        """What the model had of a memory: nothing of one that was only `found`."""
        uses: tuple[tuple[Use, Sequence[Recalled]], ...] = (
            ("seen", [self.picture] if self.picture else []),
            ("named", self.named),
            ("read", self.read),
        )
        mine = item.record.id
        return next((use for use, items in uses if mine in [one.record.id for one in items]), "found")


class Writing:
    """An answer as it is written; what it rests on is known when it has been taken to its end."""

    def __init__(
        self,
        model: DialogueModel,
        queries: Tensor,
        question: str,
        found: Sequence[Recalled],
        settings: MemorySettings,
        generation: dict[str, Any],
        reader: CausalReader | None = None,
    ) -> None:
        """queries: [1, Q, E] of the turn, Q 0 where nothing was shown; question: as the model reads it.

        reader: makes the second pass; None: the dialogue's own language model, behind the queries.
        """
        self.model, self.queries, self.question = model, queries, question
        self.found = list(found) if settings.reflection.enabled else []
        self.settings = settings
        self.generation = {**model.config.generation, **generation}
        self.reader = reader or CausalReader(model.language, visual=queries)
        self.now = time.time()
        self.read: tuple[Recalled, ...] = ()
        self.named: tuple[Recalled, ...] = ()
        self.reasoning = ""
        self.problem: str | None = None

    def __iter__(self) -> Iterator[str]:
        """The pieces of the answer."""
        if not self.found and self.queries.shape[1] == 0:
            yield self.settings.reflection.not_remembered  # nothing is seen and nothing was found
            return
        if self.found and self.settings.reflection.second_pass and (answer := self._reflect()):
            yield answer
            return
        prompt = self._prompt_that_fits()
        yield from self.model.language.stream(self.queries, prompt, **self.generation)

    def _reflect(self) -> str:
        """The answer of the second pass; empty where it has none and there is something to look at."""
        reflection = Reflection(self.settings)
        found = self.found
        while found and not self.reader.fits(
            reflection.prompt(self.question, make_reminders(found, self.settings, self.now), self.now)
        ):
            found = found[:-1]
        reflected = reflection.answer(self.question, found, self.reader, self.now)
        self.reasoning, self.problem = reflected.reasoning, reflected.problem
        self.read, self.named = self._in_prompt(found), tuple(reflected.used)
        return reflected.answer if reflected.remembered or self.queries.shape[1] == 0 else ""

    def _prompt_that_fits(self) -> str:
        """The question with as many reminders as the model reads at once."""
        plain, found = self.model.prompt(self.question), self.found
        while found and not self._fits(add_reminders(plain, found, self.settings, self.now)):
            found = found[:-1]
        self.read = self._in_prompt(found)
        return add_reminders(plain, found, self.settings, self.now)

    def _fits(self, prompt: str) -> bool:
        """Whether the dialogue's language model reads the whole prompt, which it would cut otherwise."""
        language = self.model.language
        return len(language.prompt_ids(prompt, longest=sys.maxsize)) <= language.config.max_prompt_tokens

    def _in_prompt(self, found: Sequence[Recalled]) -> tuple[Recalled, ...]:
        return tuple(reminder.recalled for reminder in make_reminders(found, self.settings, self.now))
