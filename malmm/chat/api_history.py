"""Which conversation the turns that a client sends along belong to."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from malmm.chat.api_messages import Said
from malmm.chat.conversations import Conversation, Conversations
from malmm.chat.turn_records import PastTurn, read_turns
from malmm.memory.record import Filters
from malmm.memory.store import MemoryStore

PREFIX = "api"  # of the names of conversations that the endpoint begins
KNOWN = 10_000  # histories that are kept in mind
CANDIDATES = 50  # records with the words of the last question, whose conversations are compared


class Histories:
    """Finds the conversation that went as a history says; a history is known by its fingerprint."""

    def __init__(self, conversations: Conversations, store: MemoryStore) -> None:
        self.conversations = conversations
        self.store = store
        # (user, the client's history) -> (conversation, what the store had of it)
        self._known: OrderedDict[tuple[str, str], tuple[str, str]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, user: str, history: Sequence[Said]) -> Conversation | None:
        """The user's conversation with this history, open or in the store; None where there is none.

        One that has gone on since, as where an answer is regenerated, or that forgot something, is another.
        """
        mark = fingerprint(_of_turns(history))
        name, then = self._known.get((user, mark), (None, mark))
        name = name or self._look_up(user, history, mark)
        if name is None or self._stored(user, name) != then:
            return None
        return self.conversations.open(user, name)

    def note(self, user: str, history: Sequence[Said], conversation: str) -> None:
        """Keep in mind that this conversation has this history now."""
        entry = (conversation, self._stored(user, conversation))
        with self._lock:
            self._known[user, fingerprint(_of_turns(history))] = entry
            while len(self._known) > KNOWN:
                self._known.popitem(last=False)

    def _stored(self, user: str, conversation: str) -> str:
        return fingerprint(_of_records(read_turns(self.store, user, conversation)))

    def _look_up(self, user: str, history: Sequence[Said], mark: str) -> str | None:
        """The name of the conversation in the store, by the words of its last question."""
        question = next((turn.text for turn in reversed(history) if turn.role == "user"), "")
        found = self.store.search_text(user, question, CANDIDATES, Filters(role="user"))
        records = self.store.get(user, [id for id, _ in found])
        for name in dict.fromkeys(record.conversation for record in records):
            if name.startswith(PREFIX) and self._stored(user, name) == mark:
                return name
        return None


def fingerprint(steps: Iterable[tuple[str, str]]) -> str:
    """sha256 of what was shown, asked and answered, in order."""
    digest = hashlib.sha256()
    for step in steps:
        for part in step:
            content = part.encode("utf-8", "replace")
            digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def _of_turns(history: Sequence[Said]) -> Iterable[tuple[str, str]]:
    for turn in history:
        for item in turn.items:
            yield "seen", hashlib.sha256(item.content).hexdigest()
        if text := turn.text.strip():
            yield turn.role, text


def _of_records(turns: Sequence[PastTurn]) -> Iterable[tuple[str, str]]:
    for turn in turns:
        if turn.seen is not None:
            yield "seen", turn.seen.media.sha256 if turn.seen.media else ""
            continue
        if turn.said is not None:
            yield "user", turn.said.text.strip()
        if turn.answer is not None:
            yield "assistant", turn.answer.text.strip()
