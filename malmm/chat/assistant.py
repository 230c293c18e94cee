"""What the terminal and the server open before a conversation with a long-term memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from malmm.chat.loading import (
    default_store,
    load_memory_session,
    load_reader,
    load_session,
    split_options,
)
from malmm.chat.reader import CausalReader
from malmm.chat.remembering import MemorySession
from malmm.chat.session import ChatSession
from malmm.memory.settings import MemorySettings, load_memory_settings
from malmm.memory.store import MemoryStore, open_store


@dataclass(frozen=True)
class Assistant:
    """What all conversations share: the model with its encoder, as one session has them, and the store."""

    session: ChatSession
    store: MemoryStore
    settings: MemorySettings
    reader: CausalReader | None
    """The language model that reads reminders, where it is another than the dialogue model's."""

    def open_session(self, user: str, conversation: str | None) -> MemorySession:
        """A user's conversation, with what the store has of it; None: a new one."""
        return load_memory_session(self.session, self.store, self.settings, user, conversation, self.reader)


@contextmanager
def load_assistant(
    store: str | None,
    config: Path | None,
    checkpoint: Path | None,
    llm_model_path: str | None,
    options: Sequence[str],
    memory_config: Path | None,
) -> Iterator[Assistant]:
    """Model, encoder and store, which is closed at the end. options: words as `memory.recall.k 10`."""
    of_memory, of_model = split_options(options)
    settings = load_memory_settings(memory_config, of_memory)
    session = load_session(config, checkpoint, llm_model_path, of_model)
    encoder = session.encoder
    with open_store(store or default_store(), encoder.width, encoder.identity()) as opened:
        yield Assistant(session, opened, settings, load_reader(settings))
