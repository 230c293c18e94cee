"""Who may see what: in front of everything that the server answers.

Gradio knows whether somebody is signed in, but gives every signed-in user each uploaded file whose address he
has, and lets him listen to another's page whose session hash he has. The gate closes both: a file belongs to
those who uploaded it, a session hash to the user who came with it first, and of Gradio's routes those that
the page does not need are not there.
"""

import json
import re
import threading
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

API = "/v1/"
GRADIO = "/gradio_api/"
OPEN = ("/sign-in", "/favicon.ico")
PAGE = re.compile(
    r"/((|config|theme\.css|manifest\.json|sign-out|export)"
    r"|(assets|static|svelte|media)/.*"
    r"|gradio_api/(upload|upload_progress|queue/(join|data)|heartbeat/[^/]+|file=.*|startup-events|cancel|reset"
    r"|info|config|theme\.css))/?"
)
UPLOAD, FILE, JOIN = f"{GRADIO}upload", f"{GRADIO}file=", ("queue/join", "cancel", "reset")
HEARTBEAT = f"{GRADIO}heartbeat/"
SECURITY_HEADERS = {
    # Nothing comes from another machine, as a picture that an answer names. Gradio needs the two unsafe.
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}


class Belongings:
    """Which uploaded files and which open pages are whose."""

    def __init__(self) -> None:
        self._files: dict[str, set[str]] = {}  # the same bytes under the same name are one file
        self._pages: dict[str, str] = {}
        self._lock = threading.Lock()

    def uploaded(self, user: str, path: str) -> None:
        """The user brought this file."""
        with self._lock:
            self._files.setdefault(path, set()).add(user)

    def has(self, user: str, path: str) -> bool:
        """Whether the user brought this file."""
        return user in self._files.get(path, ())

    def claim(self, user: str, page: str) -> bool:
        """Whether a page's session hash is the user's: it is of the one who comes with it first."""
        with self._lock:
            return self._pages.setdefault(page, user) == user


class Gate:
    """ASGI middleware: refuses what is too large, comes from another site, or is not the caller's.

    find_user: the name of the user who is signed in, or None; `scope["user_name"]` carries it on.
    hosts: under which names the server may be called. Without accounts these are this machine's own, so that
    no page of another site reaches it by a name that is made to point here (DNS rebinding).
    """

    def __init__(
        self,
        app: ASGIApp,
        find_user: Callable[[Request], str | None],
        belongings: Belongings,
        max_bytes: int,
        hosts: Collection[str] | None = None,
    ) -> None:
        self.app = app
        self.find_user = find_user
        self.belongings = belongings
        self.max_bytes = max_bytes
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        receive, send = self._limited(receive), _with_headers(send)
        refusal = self._refuse(scope)
        if refusal is None and not scope["path"].startswith((API, *OPEN)):
            receive, refusal = await self._check_page(scope, receive)
            if scope["path"] == UPLOAD and refusal is None:
                send = self._record_upload(scope["user_name"], send)
        await (refusal or self.app)(scope, receive, send)

    def _refuse(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if int(headers.get("content-length") or 0) > self.max_bytes:
            return self._answer(scope, 413, self.too_large())
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hosts is not None and urlsplit(f"//{host}").hostname not in self.hosts:
            return self._answer(scope, 403, f"this server is not {host}")
        if scope["method"] != "GET" and origin and urlsplit(origin).netloc != host:
            return self._answer(scope, 403, "this request comes from a page of another site")
        if scope["path"].startswith((API, *OPEN)):
            return None
        user = self.find_user(Request(scope))
        if user is None:
            wants_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
            return (
                RedirectResponse("/sign-in", 303) if wants_page else self._answer(scope, 401, "sign in first")
            )
        scope["user_name"] = user
        return None if PAGE.fullmatch(scope["path"]) else self._answer(scope, 404, "there is no such page")

    async def _check_page(self, scope: Scope, receive: Receive) -> tuple[Receive, Response | None]:
        user, path = scope["user_name"], scope["path"]
        pages = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [])
        if path.startswith(HEARTBEAT):
            pages.append(path.removeprefix(HEARTBEAT))
        if path.startswith(FILE) and not self.belongings.has(user, path.removeprefix(FILE)):
            return receive, self._answer(scope, 404, "there is no such file")
        if scope["method"] == "POST" and path.removeprefix(GRADIO).startswith(JOIN):
            try:
                receive, page = await _peek_session(receive)
            except HTTPException as error:
                return receive, self._answer(scope, error.status_code, error.detail)
            pages += [page] if page else []
        if not all(self.belongings.claim(user, page) for page in pages):
            return receive, self._answer(scope, 403, "this page is another user's")
        return receive, None

    def _record_upload(self, user: str, send: Send) -> Send:
        """Note which files the answer to an upload names, before it is sent."""

        async def recording(message: Message) -> None:
            if message["type"] == "http.response.body" and message.get("body", b"").startswith(b"["):
                for path in json.loads(message["body"]):
                    self.belongings.uploaded(user, path)
            await send(message)

        return recording

    def _limited(self, receive: Receive) -> Receive:
        """Counts the bytes of a body whose length was not said."""
        total = 0

        async def counting() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self.max_bytes:
                raise HTTPException(413, self.too_large())
            return message

        return counting

    def too_large(self) -> str:
        """The sentence for a body that is refused."""
        return f"this is larger than {self.max_bytes // 2**20} MiB, the most that the server takes"

    def _answer(self, scope: Scope, status: int, sentence: str) -> Response:
        if scope["path"].startswith(API):
            return JSONResponse(error_body(sentence), status)
        return PlainTextResponse(sentence, status)


def error_body(sentence: str, kind: str = "invalid_request_error", **more: Any) -> dict[str, Any]:
    """An error in OpenAI's format."""
    return {"error": {"message": sentence, "type": kind, "param": None, "code": None, **more}}


def _with_headers(send: Send) -> Send:
    """Adds what keeps a browser from loading or running anything of another machine."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(SECURITY_HEADERS)
        await send(message)

    return sending


async def _peek_session(receive: Receive) -> tuple[Receive, str | None]:
    """Read a JSON body ahead -> what gives it once more, and the session hash in it."""
    messages: list[Message] = []
    while not messages or messages[-1].get("more_body", False):
        messages.append(await receive())
    body = b"".join(message.get("body", b"") for message in messages)
    again = iter(messages)

    async def replay() -> Message:
        return next(again, None) or await receive()

    try:
        page = json.loads(body).get("session_hash")
    except (ValueError, AttributeError):
        page = None
    return replay, page if isinstance(page, str) else None
