"""What tests of the chat with a long-term memory share."""

from pathlib import Path

from malmm.chat.loading import load_memory_session
from malmm.chat.remembering import MemorySession
from malmm.chat.session import ChatSession
from malmm.memory.settings import MemorySettings
from malmm.memory.store import MemoryStore, open_store

QUESTIONS = ["is there a square?", "what colour is it?", "left of it?"]


def open_memory(session: ChatSession, path: Path) -> MemoryStore:
    """The store at `path`, for the encoder of `session`."""
    return open_store(str(path), session.encoder.width, session.encoder.identity())


def remembering(
    session: ChatSession,
    store: MemoryStore,
    user: str = "me",
    conversation: str | None = None,
    settings: MemorySettings | None = None,
) -> MemorySession:
    """A conversation that keeps what it hears in `store`."""
    return load_memory_session(session, store, settings or MemorySettings(), user, conversation)


def kept(store: MemoryStore, user: str = "me") -> list[tuple[str, str, str, int | None]]:
    """(modality, role, text, turn) of a user's records, oldest first."""
    records = store.records(user, newest_first=False)
    return [(one.modality, one.role, one.text, one.turn) for one in sorted(records, key=lambda one: one.id)]
