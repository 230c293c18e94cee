"""One conversation about pictures: what was shown and asked lives in the model's memory bank."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from extraction.encoder import Encoder
from extraction.preprocess.text import Tokenizer
from malmm.errors import InputError
from malmm.models.dialogue import DialogueModel, DialogueState

Picture = str | Path | Image.Image
Kind = Literal["picture", "sound", "question"]


@dataclass(frozen=True)
class Turn:
    """What one turn put into the memory bank, in words."""

    number: int
    kind: Kind
    text: str
    """The picture's or the sound's caption, or the question."""
    picture: str
    """Name of the picture or sound that was before the model."""


@dataclass(frozen=True)
class Slot:
    """One slot of the memory bank and the turns that were merged into it."""

    number: int
    turns: list[Turn]

    @property
    def merged(self) -> bool:
        """Whether the slot stands for more than one turn."""
        return len(self.turns) > 1


@dataclass(frozen=True)
class Moment:
    """All of a conversation so far. A turn replaces it as a whole, so that there is no half of a turn."""

    state: DialogueState
    turns: tuple[Turn, ...] = ()
    vision: Tensor | None = None  # [1, C], of the picture that is shown, or the sound in its place
    picture: str = ""
    digest: str = ""
    """sha256 of its file, where a long-term memory keeps it."""


class ChatSession:
    """A conversation with a dialogue model that encodes pictures and questions itself.

    A picture with its caption is one turn, a question is one turn. Each goes through ImageBind once and then
    into the memory bank, whose length is fixed, so that the hundredth turn costs what the second one does.
    A turn counts when it is finished: one that fails or is abandoned leaves the conversation as it was.
    """

    def __init__(
        self,
        model: DialogueModel,
        encoder: Encoder,
        default_caption: str = "a picture",
        generation: dict[str, Any] | None = None,
    ) -> None:
        """Join `model` and `encoder`, whose embeddings must be as wide as the model was built for.

        `default_caption` stands in for a picture's caption where none is given; `generation` overrides the
        model's own generation settings. Raises InputError where the two do not fit each other.
        """
        if encoder.width != model.config.embedding_width:
            raise InputError(
                f"the encoder gives embeddings of {encoder.width} numbers, the dialogue model reads "
                f"{model.config.embedding_width}: name the encoder that the model was trained with"
            )
        self.model = model.eval()
        self.encoder = encoder
        self.default_caption = default_caption
        self.generation = dict(generation or {})
        self._tokenizer = Tokenizer(encoder.vocabulary)  # counts what the encoder would cut without a word
        self.reset()

    def reset(self) -> None:
        """Forget everything: the memory bank, the turns and the picture."""
        self._moment = Moment(self.model.init_state(batch_size=1))

    @property
    def picture(self) -> str:
        """Name of the picture before the model's eyes, empty where there is none yet."""
        return self._moment.picture

    def show(self, picture: Picture, caption: str | None = None) -> None:
        """Look at a picture, from now on the one that questions are about; the memory is kept.

        Raises InputError where the picture cannot be read or the caption is too long.
        """
        text = self._caption(caption)
        vision = self.encoder.encode_images([picture])  # [1, C]
        self._moment = self._perceive(self._moment, vision, text, self._embed_text(text), name_of(picture))

    def ask(self, question: str) -> str:
        """Answer a question about the picture, with what the memory holds. Raises InputError as `stream`."""
        return "".join(self.stream(question))

    def stream(self, question: str) -> Generator[str]:
        """Answer a question piece by piece; the turn counts once the last piece has been taken.

        Raises InputError at once where there is no picture yet, or the question is empty or too long.
        """
        text = self._question(question)
        return self._stream(text, *self._listen(self._moment, text, self._embed_text(text)))

    def _stream(self, question: str, queries: Tensor, heard: Moment) -> Generator[str]:
        yield from self.model.stream(queries, question, **self.generation)
        self._moment = heard

    def memory(self) -> list[Slot]:
        """What the memory bank holds, oldest first, and which turns were merged into each slot."""
        now = self._moment
        slots = self.model.memory_slots(now.state)
        return [Slot(i, [now.turns[t] for t in slot.turns]) for i, slot in enumerate(slots)]

    def _perceive(
        self,
        now: Moment,
        vision: Tensor,
        caption: str,
        embedded: Tensor,
        name: str,
        kind: Kind = "picture",
    ) -> Moment:
        """The conversation after a picture or sound [1, C] with its caption, whose embedding is [1, C]."""
        _, state = self._observe(vision, embedded, now.state)
        return Moment(state, (*now.turns, Turn(len(now.turns), kind, caption, name)), vision, name)

    def _listen(self, now: Moment, question: str, embedded: Tensor) -> tuple[Tensor, Moment]:
        """A question and its embedding [1, C] -> queries [1, Q, E] and the conversation after it.

        Raises InputError where there is no picture yet.
        """
        if now.vision is None:
            raise InputError("there is no picture yet: show one first")
        queries, state = self._observe(now.vision, embedded, now.state)
        turn = Turn(len(now.turns), "question", question, now.picture)
        return queries, replace(now, state=state, turns=(*now.turns, turn))

    @torch.inference_mode()
    def _observe(
        self, vision: Tensor, embedded: Tensor, state: DialogueState
    ) -> tuple[Tensor, DialogueState]:
        """One turn: vision and a text's embedding, [1, C] each -> (queries [1, Q, E], state after it)."""
        device = self.model.language.device
        return self.model.observe(vision.to(device), embedded.to(device), state)

    def _embed_text(self, text: str) -> Tensor:
        """A text -> [1, C]."""
        return self.encoder.encode_texts([text])

    def _caption(self, caption: str | None) -> str:
        """A caption as the model reads it. Raises InputError for one that is too long."""
        text = self._clean(caption or "") or self.default_caption
        self._check_text(text, "caption")
        return text

    def _question(self, question: str) -> str:
        """A question as the model reads it. Raises InputError for one that is empty or too long."""
        text = self._clean(question)
        if not text:
            raise InputError("the question is empty: type one")
        self._check_text(text, "question")
        return text

    def _clean(self, text: str) -> str:
        """Without blanks around it, and without the lone surrogates that stand for bytes that are no UTF-8.

        In VisDial's style, where the model learned from it: "Is it red?" becomes "is it red".
        """
        text = text.encode("utf-8", "replace").decode().strip()
        return text.lower().rstrip(" ?.!") if self.model.config.visdial_style else text

    def _check_text(self, text: str, what: str) -> None:
        """Refuse what the text encoder or the language model would have to cut."""
        found = len(self._tokenizer.encode(text)) + 2  # with start and end
        limit = self.encoder.config.context_length
        if found > limit:
            raise InputError(f"the {what} has {found} tokens, the text encoder reads {limit}: shorten it")
        prompt = self.model.prompt(text).rstrip()
        found = len(self.model.language.tokenizer.encode(prompt, add_special_tokens=False)) + 1  # with bos
        limit = self.model.config.language.max_prompt_tokens
        if found > limit:
            raise InputError(
                f"the {what} makes a prompt of {found} tokens, max_prompt_tokens is {limit}: shorten it"
            )


def name_of(picture: Picture) -> str:
    """What a picture is called: a file's name, of a picture without a file `a picture`."""
    return "a picture" if isinstance(picture, Image.Image) else Path(picture).name
