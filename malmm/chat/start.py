"""`python -m malmm chat`: from its options to a conversation in the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from extraction.preprocess.image import load_image
from malmm.chat.assistant import load_assistant
from malmm.chat.loading import load_session
from malmm.chat.memory_commands import MemoryTerminal
from malmm.chat.terminal import Terminal
from malmm.chat.user_name import check_user


@dataclass(frozen=True)
class MemoryOptions:
    """What the command line says of the long-term memory; without any of it there is none."""

    user: str | None = None
    store: str | None = None
    conversation: str | None = None
    config: Path | None = None


def chat(
    image: Path | None,
    caption: str | None = None,
    config: Path | None = None,
    checkpoint: Path | None = None,
    llm_model_path: str | None = None,
    options: Sequence[str] = (),
    memory: MemoryOptions = MemoryOptions(),
) -> int:
    """Start up, look at `image`, hold the conversation; returns the exit status.

    Raises InputError with one sentence where the picture, a configuration, the checkpoint or the store cannot
    be used.
    """
    if image is not None:
        load_image(image)  # a wrong path is told before a minute of loading
    if memory == MemoryOptions():
        return _talk(Terminal(load_session(config, checkpoint, llm_model_path, options)), image, caption)
    user = check_user("me" if memory.user is None else memory.user)
    loaded = load_assistant(memory.store, config, checkpoint, llm_model_path, options, memory.config)
    with loaded as assistant:
        session = assistant.open_session(user, memory.conversation)
        return _talk(MemoryTerminal(session), image, caption)


def _talk(terminal: Terminal, image: Path | None, caption: str | None) -> int:
    if image is not None:
        terminal.show(image, caption)
    return terminal.run()
