"""`python -m malmm chat`: from its options to a conversation in the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from extraction.preprocess.image import load_image
from malmm.chat.loading import default_store, load_memory_session, load_reader, load_session, split_options
from malmm.chat.memory_commands import MemoryTerminal
from malmm.chat.terminal import Terminal
from malmm.chat.user_name import check_user
from malmm.memory.settings import load_memory_settings
from malmm.memory.store import open_store


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
    of_memory, of_model = split_options(options)
    settings = load_memory_settings(memory.config, of_memory)
    session = load_session(config, checkpoint, llm_model_path, of_model)
    where = memory.store or default_store()
    with open_store(where, session.encoder.width, session.encoder.identity()) as store:
        reader = load_reader(settings)
        remembering = load_memory_session(session, store, settings, user, memory.conversation, reader)
        return _talk(MemoryTerminal(remembering), image, caption)


def _talk(terminal: Terminal, image: Path | None, caption: str | None) -> int:
    if image is not None:
        terminal.show(image, caption)
    return terminal.run()
