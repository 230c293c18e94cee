"""`python -m malmm serve`: the page and the OpenAI-compatible endpoint over one model and one store."""

import errno
import ipaddress
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import Response

from malmm.chat.accounts import Accounts
from malmm.chat.api import Endpoint, api_routes
from malmm.chat.api_errors import handle_errors
from malmm.chat.assistant import Assistant, load_assistant
from malmm.chat.conversations import Conversations
from malmm.chat.exchange import export_memories
from malmm.chat.web_gate import Belongings, Gate
from malmm.chat.web_signin import Visitors, sign_in_routes
from malmm.errors import InputError
from malmm.memory.store import MemoryStore

LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
GRACE = 3  # seconds that open pages get to end once the server is told to
SHOWN_INLINE = {
    ".png",
    ".jpg",
    ".jpeg",
    ".gif",
    ".webp",
    ".bmp",
    ".wav",
    ".mp3",
    ".flac",
    ".ogg",
    ".m4a",
    ".mp4",
}


@dataclass(frozen=True)
class Address:
    """Where the server listens."""

    host: str = "127.0.0.1"
    port: int = 7860

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def listen(self) -> socket.socket:
        """An open socket. Raises InputError where the port is taken or the host is not this machine's."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family, backlog=128)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                sentence = f"port {self.port} is in use: name another with --port, or 0 for any that is free"
                raise InputError(sentence) from error
            raise InputError(
                f"{self.host}:{self.port} cannot be listened at ({error.strerror}): name another --host"
            ) from error


def build_app(
    assistant: Assistant, accounts: Accounts | None, local: bool, max_bytes: int, uploads: Path
) -> FastAPI:
    """The whole server; `uploads`: a folder of its own, where uploaded files lie until a day has passed."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=str(uploads), HF_HUB_OFFLINE="1")
    from malmm.chat.web import Page, build_page, mount_page  # Gradio reads the environment

    conversations = Conversations(assistant.open_session)
    visitors, belongings = Visitors(accounts), Belongings()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    handle_errors(app)
    app.include_router(sign_in_routes(visitors))
    app.include_router(api_routes(Endpoint(conversations, assistant.store, accounts)))
    app.include_router(memory_routes(assistant.store, assistant.session.encoder.identity()))
    mount_page(app, build_page(Page(conversations, assistant.store, belongings, accounts is not None)))
    hosts = LOCAL_NAMES if accounts is None and local else None
    app.add_middleware(Gate, find_user=visitors.find, belongings=belongings, max_bytes=max_bytes, hosts=hosts)
    return app


def memory_routes(store: MemoryStore, encoder: Mapping[str, Any]) -> APIRouter:
    """`/media/ID`: the picture or sound of one of the user's memories; `/export`: all of them."""
    router = APIRouter()

    @router.get("/media/{id}")
    def media(request: Request, id: int) -> Response:
        (record,) = store.get(request.scope["user_name"], [id]) or (None,)
        if record is None or record.media is None or not record.media.copied:
            raise HTTPException(404, "there is no such picture or sound")
        path = store.media_file(record.media)
        # A record may come from an imported file and name any path: only the store's own copy is given out.
        if path is None or path == Path(record.media.path):
            raise HTTPException(404, "this picture or sound is not in the memory any more")
        shown = path.suffix.lower() in SHOWN_INLINE
        return FileResponse(
            path,
            media_type=None if shown else "application/octet-stream",
            content_disposition_type="inline" if shown else "attachment",
            headers={"cache-control": "private, no-cache"},
        )

    @router.get("/export")
    def export(request: Request) -> Response:
        user = request.scope["user_name"]
        folder = tempfile.mkdtemp(prefix="malmm-export-")
        path = Path(folder, f"malmm-{user}.zip")
        export_memories(store, encoder, user, path)
        return FileResponse(path, filename=path.name, background=BackgroundTask(shutil.rmtree, folder))

    return router


def serve(
    address: Address,
    auth: Path | None = None,
    store: str | None = None,
    config: Path | None = None,
    checkpoint: Path | None = None,
    llm_model_path: str | None = None,
    options: Sequence[str] = (),
    max_upload_mb: int = 32,
    memory_config: Path | None = None,
) -> int:
    """Load the model, listen, and answer until Ctrl-C; returns the exit status 0.

    Raises InputError with one sentence for a host that others reach without accounts, a port that is in use,
    and whatever model and store cannot be opened.
    """
    if auth is None and not address.local:
        raise InputError(
            f"--host {address.host} lets others in: name their accounts with --auth FILE "
            "(`python -m malmm accounts add NAME` makes one)"
        )
    accounts = None if auth is None else Accounts(auth)
    if accounts is not None and not len(accounts):
        raise InputError(f"{auth} has no account: add one with `python -m malmm accounts add NAME`")
    with (
        address.listen() as listening,  # before the model is loaded: a port in use is told at once
        load_assistant(store, config, checkpoint, llm_model_path, options, memory_config) as assistant,
        tempfile.TemporaryDirectory(prefix="malmm-") as uploads,
    ):
        app = build_app(assistant, accounts, address.local, max_upload_mb * 2**20, Path(uploads))
        host, port = listening.getsockname()[:2]
        print(
            f"malmm answers at http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C stops it)",
            flush=True,
        )
        settings = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=GRACE, server_header=False
        )
        with suppress(KeyboardInterrupt):  # uvicorn ends what is open and raises it again
            _Server(settings).run(sockets=[listening])
    return 0


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; that pages are open still is no error to tell of."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        super().handle_exit(sig, frame)
