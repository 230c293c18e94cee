"""The conversations that a server has open: several of each user, each with a lock of its own."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from malmm.chat.remembering import MemorySession
from malmm.memory.recall import Recalled

OPEN_OF_A_USER = 16  # the least recently used is closed; by its name it goes on, for the store has it


@dataclass(frozen=True)
class Answer:
    """A question, its answer and the memories behind it."""

    question: str
    text: str
    memories: list[Recalled]
    uses: Mapping[int, str]
    """What the model had of each memory, by record."""


@dataclass
class Conversation:
    """One conversation of one user. Whoever uses `session` holds `lock`: one turn at a time."""

    name: str
    session: MemorySession
    lock: threading.Lock = field(default_factory=threading.Lock)
    answers: list[Answer] = field(default_factory=list)

    def ask(self, question: str) -> Iterator[str]:
        """The answer piece by piece; it counts once the last piece has been taken."""
        pieces = []
        for piece in self.session.stream(question):
            pieces.append(piece)
            yield piece
        memories = list(self.session.why())
        uses = {item.record.id: self.session.answered.use_of(item) for item in memories}
        self.answers.append(Answer(question, "".join(pieces), memories, uses))

    def forgotten(self, ids: Collection[int]) -> None:
        """Show these memories no more behind any answer."""
        self.answers = [
            replace(answer, memories=[item for item in answer.memories if item.record.id not in ids])
            for answer in self.answers
        ]


class Conversations:
    """Open conversations by user and name; a user reaches his own only."""

    def __init__(self, open_session: Callable[[str, str], MemorySession]) -> None:
        """open_session: from a user and the conversation's name, with what the store has of it."""
        self._open_session = open_session
        self._users: dict[str, OrderedDict[str, Conversation]] = {}
        self._lock = threading.Lock()

    def open(self, user: str, name: str) -> Conversation:
        """The conversation of this name; it begins, or goes on, where it is not open."""
        with self._lock:
            mine = self._users.setdefault(user, OrderedDict())
            if name not in mine:
                mine[name] = Conversation(name, self._open_session(user, name))
            mine.move_to_end(name)
            while len(mine) > OPEN_OF_A_USER:
                mine.popitem(last=False)
            return mine[name]

    def begin(self, user: str, prefix: str) -> Conversation:
        """A new conversation, under a name that nobody guesses."""
        return self.open(user, f"{prefix}-{secrets.token_hex(8)}")

    def latest(self, user: str, prefix: str) -> Conversation | None:
        """The open one that was used last, of those that began with `begin(user, prefix)`."""
        with self._lock:
            mine = self._users.get(user, OrderedDict())
            return next((mine[name] for name in reversed(mine) if name.startswith(f"{prefix}-")), None)

    def of(self, user: str) -> list[Conversation]:
        """All that the user has open."""
        with self._lock:
            return list(self._users.get(user, OrderedDict()).values())
