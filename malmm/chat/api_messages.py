"""What a client of the OpenAI-compatible endpoint sends, checked, and read as turns of a conversation."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from malmm.errors import InputError

DATA_URL = re.compile(r"data:(image|audio)/([a-zA-Z0-9.+-]+)(?:;[^,;]+)*;base64,(.*)", re.DOTALL)
SUFFIXES = {"jpeg": "jpg", "svg+xml": "svg", "x-wav": "wav", "wave": "wav", "mpeg": "mp3"}


class TextPart(BaseModel):
    """A part of a message: text."""

    type: Literal["text"]
    text: str


class ImageURL(BaseModel):
    """Where a picture is: a data URL."""

    url: str


class ImagePart(BaseModel):
    """A part of a message: a picture."""

    type: Literal["image_url"]
    image_url: ImageURL


class Audio(BaseModel):
    """A sound's bytes in base64."""

    data: str
    format: Literal["wav", "mp3", "flac", "ogg"]


class AudioPart(BaseModel):
    """A part of a message: a sound."""

    type: Literal["input_audio"]
    input_audio: Audio


Part = Annotated[TextPart | ImagePart | AudioPart, Field(discriminator="type")]


class Message(BaseModel):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class StreamOptions(BaseModel):
    """What a stream holds beside the answer."""

    include_usage: bool = False


class ResponseFormat(BaseModel):
    """Of the answer; there is text only."""

    type: Literal["text"] = "text"


class Metadata(BaseModel):
    """What a client notes of a request, which may have more keys than this."""

    conversation: str | None = None


class ChatRequest(BaseModel):
    """The body of POST /v1/chat/completions; what it does not name (temperature, seed, ...) has no effect."""

    model_config = ConfigDict(extra="ignore")

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Literal[1] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None
    metadata: Metadata | None = None


@dataclass(frozen=True)
class Item:
    """A picture or a sound of a turn, with the suffix that its type has and the text that stood before it."""

    kind: Literal["picture", "sound"]
    content: bytes
    suffix: str
    caption: str | None = None


@dataclass(frozen=True)
class Said:
    """One message of a user or of the assistant."""

    role: str
    text: str
    items: tuple[Item, ...] = ()


def read_turns(messages: Sequence[Message]) -> list[Said]:
    """The messages of user and assistant, those of one role in a row as one; the last is the user's.

    Of a user's texts the one behind the last picture is the question, and one right before a picture is its
    caption; where no text is behind the last picture, all texts are the question. Raises InputError for a
    picture that is no data URL, for bytes that are no base64, and where there is nothing to answer.
    """
    turns: list[Said] = []
    for number, message in enumerate(messages):
        if message.role in ("system", "developer"):
            continue  # the dialogue model's prompt has no place for instructions
        turn = _read(message, f"messages.{number}")
        if turns and turns[-1].role == turn.role:
            before = turns.pop()
            text = "\n".join(filter(None, (before.text, turn.text)))
            turn = Said(turn.role, text, before.items + turn.items)
        turns.append(turn)
    if not turns or turns[-1].role != "user":
        raise InputError("the last message must be the user's: end messages with one of role user")
    if not turns[-1].text:
        raise InputError("the last message asks nothing: add a text to it")
    return turns


def _read(message: Message, where: str) -> Said:
    if not isinstance(message.content, list):
        return Said(message.role, (message.content or "").strip())
    items: list[Item] = []
    texts = [""]  # the last one is what stands behind the last item
    for part in message.content:
        if isinstance(part, TextPart):
            texts.append(part.text.strip())
        else:
            items.append(_item(part, texts.pop() or None, where))
            texts.append("")
    if items and not texts[-1]:  # nothing asked behind the pictures: it was asked before them
        texts = [part.text.strip() for part in message.content if isinstance(part, TextPart)]
        items = [Item(item.kind, item.content, item.suffix) for item in items]
    return Said(message.role, "\n".join(filter(None, texts)), tuple(items))


def _item(part: ImagePart | AudioPart, caption: str | None, where: str) -> Item:
    if isinstance(part, AudioPart):
        return Item("sound", _decode(part.input_audio.data, where), part.input_audio.format, caption)
    url = part.image_url.url
    if url.startswith(("http://", "https://")):
        raise InputError(
            f"{where}: pictures are not fetched from the net, so send a data URL (data:image/png;base64,...)"
        )
    found = DATA_URL.fullmatch(url)
    if not found or found[1] != "image":
        raise InputError(f"{where}: the picture is no data URL: write data:image/png;base64, and its bytes")
    suffix = found[2].lower()
    return Item("picture", _decode(found[3], where), SUFFIXES.get(suffix, suffix), caption)


def _decode(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InputError(f"{where}: the bytes are not valid base64: encode them again") from error
