"""The OpenAI-compatible endpoint: /v1/chat/completions and /v1/models, with the user's long-term memory.

A conversation is named by the header X-Conversation, by `metadata.conversation` or by `user`. Without a name
it is known by the turns that the client sends along: the conversation that went so goes on. Where none did,
one begins with the pictures and sounds of those turns; what else was said in them it does not know.
"""

import json
import re
import sys
import time
import uuid
from collections.abc import AsyncIterator, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, unquote

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.responses import Response

from extraction.errors import InputError as ExtractionInputError
from malmm.chat.accounts import Accounts
from malmm.chat.api_errors import APIError, invalid_body
from malmm.chat.api_history import PREFIX, Histories
from malmm.chat.api_messages import ChatRequest, Said, read_turns
from malmm.chat.conversations import Conversation, Conversations
from malmm.chat.web_gate import API
from malmm.chat.web_signin import SINGLE_USER
from malmm.errors import InputError
from malmm.memory.store import MemoryStore

MODEL = "malmm"
LONGEST_NAME = 200  # characters of a conversation's name
OWNER = {"id": MODEL, "object": "model", "created": 1767225600, "owned_by": "malmm"}  # 2026-01-01


@dataclass(frozen=True)
class Task:
    """A request that was understood: the conversation, what is new in it, and the pieces to answer with."""

    request: ChatRequest
    user: str
    conversation: Conversation
    history: list[Said]
    """All that the client sent; the last is the question."""
    new: list[Said]
    """What of it the conversation has not heard."""
    id: str
    created: int


class Endpoint:
    """What the routes do."""

    def __init__(self, conversations: Conversations, store: MemoryStore, accounts: Accounts | None) -> None:
        self.conversations = conversations
        self.histories = Histories(conversations, store)
        self.accounts = accounts

    def user_of(self, request: Request) -> str:
        """Whose bearer key comes with a request; without accounts the single user. Raises APIError 401."""
        if self.accounts is None:
            return SINGLE_USER
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        user = self.accounts.user_of(key.strip()) if scheme.lower() == "bearer" else None
        if user is None:
            sentence = "this API key is unknown: make one with `python -m malmm accounts key NAME`"
            raise APIError(401, sentence, code="invalid_api_key")
        return user

    def prepare(self, user: str, body: Any, header: str | None) -> Task:
        """Understand a body. Raises APIError."""
        try:
            request = ChatRequest.model_validate(body)
        except ValidationError as error:
            raise invalid_body(error) from error
        if request.model != MODEL:
            sentence = f"there is no model {request.model!r}: the only one is {MODEL!r}"
            raise APIError(404, sentence, param="model", code="model_not_found")
        try:
            history = new = read_turns(request.messages)
        except InputError as error:
            raise APIError(400, str(error), param="messages") from error
        named = unquote(header or "") or (request.metadata and request.metadata.conversation) or request.user
        if named:
            conversation, new = self.conversations.open(user, _name(named)), history[-1:]
        elif len(history) > 1 and (found := self.histories.find(user, history[:-1])):
            conversation, new = found, history[-1:]
        else:
            conversation = self.conversations.begin(user, PREFIX)
        id, now = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        return Task(request, user, conversation, history, new, id, now)

    def pieces(self, task: Task) -> Generator[str]:
        """Hear what is new, answer it, piece by piece. Raises APIError before the first piece."""
        talk, limit = task.conversation, task.request.max_completion_tokens or task.request.max_tokens
        with talk.lock:
            kept = talk.session.generation
            if limit is not None:
                talk.session.generation = {**kept, "max_new_tokens": limit, "min_new_tokens": 0}
            try:
                for turn in task.new:
                    _perceive(talk, turn)
                yield from talk.ask(task.new[-1].text)
            except InputError as error:
                raise APIError(400, str(error), param="messages") from error
            finally:
                talk.session.generation = kept
            answer = Said("assistant", talk.answers[-1].text)
            self.histories.note(task.user, [*task.history, answer], talk.name)

    def closing(self, task: Task, answer: str) -> dict[str, Any]:
        """How the answer ended, and how much was read and written."""
        language = task.conversation.session.model.language
        written = len(language.answer_ids(answer, sys.maxsize)) - 1 if answer else 0  # without eos
        read = sum(
            len(language.tokenizer.encode(turn.text, add_special_tokens=False)) for turn in task.history
        )
        limit = task.request.max_completion_tokens or task.request.max_tokens
        return {
            "finish_reason": "length" if limit is not None and written >= limit else "stop",
            "usage": {
                "prompt_tokens": read,
                "completion_tokens": written,
                "total_tokens": read + written,
            },
        }


def api_routes(endpoint: Endpoint) -> APIRouter:
    """`/v1/models` and `/v1/chat/completions`."""
    router = APIRouter(prefix=API.rstrip("/"))

    @router.get("/models")
    def models(request: Request) -> dict[str, Any]:
        endpoint.user_of(request)
        return {"object": "list", "data": [OWNER]}

    @router.get("/models/{name}")
    def model(request: Request, name: str) -> dict[str, Any]:
        endpoint.user_of(request)
        if name != MODEL:
            raise APIError(
                404, f"there is no model {name!r}: the only one is {MODEL!r}", code="model_not_found"
            )
        return OWNER

    @router.post("/chat/completions")
    async def completions(request: Request) -> Response:
        user = endpoint.user_of(request)
        body = await _read_json(request)
        task = await run_in_threadpool(endpoint.prepare, user, body, request.headers.get("x-conversation"))
        pieces = endpoint.pieces(task)
        if task.request.stream:
            first = await run_in_threadpool(next, pieces, "")  # a mistake is told before the stream begins
            headers = {"cache-control": "no-cache", **_header(task)}
            return StreamingResponse(
                _events(endpoint, task, first, pieces), media_type="text/event-stream", headers=headers
            )
        answer = await run_in_threadpool("".join, pieces)
        return JSONResponse(_completion(endpoint, task, answer), headers=_header(task))

    @router.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    def nothing(path: str) -> None:
        known = path in ("models", "chat/completions")
        sentence = (
            "is called with another method" if known else "is not here: there are models, chat/completions"
        )
        raise APIError(405 if known else 404, f"/v1/{path} {sentence}")

    return router


def _name(given: str) -> str:
    """Of a conversation: those that a client names never meet those that have got a name of the server's."""
    if len(given) > LONGEST_NAME:
        raise APIError(400, f"the conversation's name is longer than {LONGEST_NAME} characters: shorten it")
    return given if re.fullmatch(rf"{PREFIX}-[0-9a-f]{{16}}", given) else f"{PREFIX}:{given}"


def _header(task: Task) -> dict[str, str]:
    """What a client can send back to go on with the conversation, in ASCII."""
    return {"x-conversation": quote(task.conversation.name.removeprefix(f"{PREFIX}:"), safe=" /:@")}


async def _read_json(request: Request) -> Any:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise APIError(415, "the body is no JSON: send it with Content-Type: application/json")
    try:
        return json.loads(await request.body())
    except ValueError as error:
        raise APIError(400, f"the body is not valid JSON ({error}): correct it") from error


def _perceive(talk: Conversation, turn: Said) -> None:
    """Show and hear what a turn brings; the memory keeps copies of its own."""
    with TemporaryDirectory() as folder:
        for item in turn.items:
            path = Path(folder, f"{item.kind}.{item.suffix}")
            path.write_bytes(item.content)
            try:
                (talk.session.show if item.kind == "picture" else talk.session.hear)(path, item.caption)
            except ExtractionInputError as error:
                raise InputError(str(error).replace(f"{folder}/", "")) from error


def _completion(endpoint: Endpoint, task: Task, answer: str) -> dict[str, Any]:
    end = endpoint.closing(task, answer)
    message = {"role": "assistant", "content": answer, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end["finish_reason"]}
    return {**_head(task, "chat.completion"), "choices": [choice], "usage": end["usage"]}


async def _events(endpoint: Endpoint, task: Task, first: str, pieces: Generator[str]) -> AsyncIterator[str]:
    """The answer as server-sent events. Where the client leaves, the turn is given up: it never was."""
    answer = first
    with closing(pieces):
        yield _event(_chunk(task, {"role": "assistant", "content": first}))
        async for piece in iterate_in_threadpool(pieces):
            answer += piece
            yield _event(_chunk(task, {"content": piece}))
    end = endpoint.closing(task, answer)
    yield _event(_chunk(task, {}, end["finish_reason"]))
    if task.request.stream_options and task.request.stream_options.include_usage:
        yield _event({**_head(task, "chat.completion.chunk"), "choices": [], "usage": end["usage"]})
    yield "data: [DONE]\n\n"


def _chunk(task: Task, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**_head(task, "chat.completion.chunk"), "choices": [choice]}


def _head(task: Task, kind: str) -> dict[str, Any]:
    return {"id": task.id, "object": kind, "created": task.created, "model": MODEL}


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
