"""What the page's events do.

Whose page it is comes from Gradio's request, which the gate has checked, with every event anew; nothing of a
user lies in Gradio's own state but the name of his conversation.
"""

import mimetypes
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from extraction.errors import InputError as ExtractionInputError
from malmm.chat import web_panel
from malmm.chat.conversations import Conversation, Conversations
from malmm.chat.turn_records import PastTurn, read_turns
from malmm.chat.web_gate import Belongings
from malmm.errors import InputError
from malmm.memory.record import Record
from malmm.memory.store import MemoryStore

PREFIX = "web"  # of the names of conversations that the page begins
LISTED = 60  # memories in the list; a search finds the others
Mistake = (InputError, ExtractionInputError)
Message = dict[str, Any]


class Page:
    """What the page's events do."""

    def __init__(
        self, conversations: Conversations, store: MemoryStore, belongings: Belongings, accounts: bool
    ) -> None:
        """accounts: whether there is anybody to sign out as."""
        self.conversations = conversations
        self.store = store
        self.belongings = belongings
        self.accounts = accounts

    def load(self, request: gr.Request) -> tuple[Any, ...]:
        """The page anew, with the conversation that was used last."""
        talk = self._talk(_user(request), "")
        return (talk.name, _head(_user(request), self.accounts), *self._everything(_user(request), talk))

    def begin(self, request: gr.Request) -> tuple[Any, ...]:
        """A new conversation."""
        talk = self.conversations.begin(_user(request), PREFIX)
        return (talk.name, *self._everything(_user(request), talk))

    def turn(self, message: Message, name: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """What was typed and added: shown, heard, asked. Yields (box, transcript, why, bank, list)."""
        user = _user(request)
        talk = self._talk(user, name)
        text, said = message["text"].strip(), self._transcript(user, talk)
        try:
            with talk.lock:
                question = self._take(user, talk, message["files"], text)
                said = self._transcript(user, talk)
                if question:
                    said, answer = [*said, _said("user", escape(question))], ""
                    for piece in talk.ask(question):
                        answer += piece
                        yield None, [*said, _said("assistant", answer)], *[gr.skip()] * 3
        except Mistake as error:
            gr.Warning(_without_folders(str(error), message["files"]))
            yield message, *self._everything(user, talk)
            return
        yield None, *self._everything(user, talk)

    def note(self, message: Message, name: str, request: gr.Request) -> tuple[Any, ...]:
        """Remember the text without asking."""
        talk = self._talk(_user(request), name)
        try:
            with talk.lock:
                talk.session.tell(message["text"])
        except Mistake as error:
            raise gr.Error(str(error), print_exception=False) from error
        gr.Info("Remembered.")
        return {**message, "text": ""}, self.find("", request)

    def find(self, search: str, request: gr.Request) -> str:
        """The list of memories, of a search or the newest."""
        return self._list(_user(request), search)

    def act(
        self, search: str, name: str, event: gr.EventData, request: gr.Request
    ) -> tuple[list[Message], str, str, str]:
        """Pin, unpin, or delete what was confirmed -> (transcript, why, bank, list)."""
        user, data = _user(request), event._data
        talk, id = self._talk(user, name), int(data["id"])
        if data["act"] == "delete":
            self._forget(user, id)
        else:
            self.store.update(user, id, pinned=data["act"] == "pin")
        return (*self._everything(user, talk)[:3], self._list(user, search))

    def _talk(self, user: str, name: str) -> Conversation:
        """The conversation of a page; Gradio forgets the name where the server has been started again."""
        if name:
            return self.conversations.open(user, name)
        return self.conversations.latest(user, PREFIX) or self.conversations.begin(user, PREFIX)

    def _take(self, user: str, talk: Conversation, files: list[str], text: str) -> str:
        """Show and hear what was added -> what is asked about it: empty where the text is its caption."""
        caption = None if not files or text.endswith("?") else text
        for path in files:
            if not self.belongings.has(user, path):
                raise InputError("this file is not among those that you uploaded: add it again")
            sound = (mimetypes.guess_type(path)[0] or "").startswith("audio/")  # Gradio takes no third kind
            (talk.session.hear if sound else talk.session.show)(path, caption)
        return "" if files and caption is not None else text

    def _forget(self, user: str, id: int) -> None:
        """Delete a memory, and bring every open conversation of the user to where it never was."""
        for talk in self.conversations.of(user):
            with talk.lock:
                talk.session.forget([id])
        for talk in self.conversations.of(user):
            held = [item.record.id for answer in talk.answers for item in answer.memories]
            talk.forgotten({*held} - {record.id for record in self.store.get(user, held)})

    def _everything(self, user: str, talk: Conversation) -> tuple[list[Message], str, str, str]:
        """Transcript, memories behind the answers, memory bank, and the list."""
        return (
            self._transcript(user, talk),
            _panel(web_panel.why(talk.answers, time.time())),
            _panel(web_panel.bank(talk.session.memory())),
            self._list(user, ""),
        )

    def _transcript(self, user: str, talk: Conversation) -> list[Message]:
        return [line for turn in read_turns(self.store, user, talk.name) for line in _lines(turn)]

    def _list(self, user: str, search: str) -> str:
        search = search.strip()
        if search:
            records = [item.record for item in self._talk(user, "").session.find(search, LISTED)]
        else:
            records = _whole(self.store.records(user, limit=LISTED))
        more = self.store.count(user) > LISTED
        return _panel(web_panel.memories(records, time.time(), search, more))


def _panel(content: str) -> str:
    return f'<div class="panel">{content}</div>'


def _head(user: str, accounts: bool) -> str:
    leave = '<form method="post" action="/sign-out"><button>Sign out</button></form>' if accounts else ""
    return (
        '<div class="bar-line"><h1>malmm</h1><span class="claim">remembers what it was shown, '
        f'and says why</span><span class="who">{escape(user)}</span><a href="/export" download>Export</a>'
        f"{leave}</div>"
    )


def _lines(turn: PastTurn) -> Iterator[Message]:
    """A turn of the conversation as the page shows it."""
    if turn.seen is not None:
        yield _said("user", _seen(turn.seen))
    elif turn.said is not None:
        yield _said("user", escape(turn.said.text))
    if turn.answer is not None:
        yield _said("assistant", turn.answer.text)


def _seen(record: Record) -> str:
    address, caption = f"/media/{record.id}", escape(record.text)
    if record.modality == "audio":
        return f'<audio controls src="{address}"></audio>\n\n{caption}'
    return f'<img src="{address}" alt="{caption or "a picture"}">\n\n{caption}'


def _said(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def _whole(records: list[Record]) -> list[Record]:
    """Without captions whose picture or sound is there too: the two are one memory."""
    seen = {(one.conversation, one.turn, one.created) for one in records if one.modality != "text"}
    return [
        one
        for one in records
        if one.modality != "text" or (one.conversation, one.turn, one.created) not in seen
    ]


def _without_folders(sentence: str, paths: list[str]) -> str:
    """The sentence with the names of uploaded files and not with where the server put them."""
    for path in paths:
        sentence = sentence.replace(path, Path(path).name)
    return sentence


def _user(request: gr.Request) -> str:
    """Who is signed in; the gate lets nobody else come so far."""
    return str(request.username)
