"""Signing in and out: a page of its own, and a cookie that names one of the server's open sessions."""

import asyncio
import secrets
import threading
import time
from html import escape

from fastapi import APIRouter, Form
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.requests import Request
from starlette.responses import Response

from malmm.chat.accounts import Accounts

COOKIE = "malmm_session"
LASTS = 30 * 86400.0  # seconds
SINGLE_USER = "me"
AT_ONCE = 2  # passwords that are checked at a time: scrypt is slow on purpose


class Visitors:
    """Who is signed in. Without accounts everybody is the single user `me`."""

    def __init__(self, accounts: Accounts | None) -> None:
        self.accounts = accounts
        self._sessions: dict[str, tuple[str, float]] = {}  # token -> user, when it ends
        self._lock = threading.Lock()

    def find(self, request: Request) -> str | None:
        """The user of a request; None where nobody is signed in, or the account is gone."""
        if self.accounts is None:
            return SINGLE_USER
        user, end = self._sessions.get(request.cookies.get(COOKIE, ""), ("", 0.0))
        return user if end > time.time() and user in self.accounts else None

    def enter(self, user: str) -> str:
        """Open a session -> its token."""
        token, now = secrets.token_urlsafe(32), time.time()
        with self._lock:
            self._sessions = {t: (u, end) for t, (u, end) in self._sessions.items() if end > now}
            self._sessions[token] = (user, now + LASTS)
        return token

    def leave(self, request: Request) -> None:
        """Close the session of a request."""
        with self._lock:
            self._sessions.pop(request.cookies.get(COOKIE, ""), None)


def sign_in_routes(visitors: Visitors) -> APIRouter:
    """`/sign-in` and `/sign-out`."""
    router = APIRouter()
    checking = asyncio.Semaphore(AT_ONCE)

    @router.get("/sign-in")
    def page(request: Request) -> Response:
        return RedirectResponse("/", 303) if visitors.find(request) else HTMLResponse(_page())

    @router.post("/sign-in")
    async def sign_in(request: Request, name: str = Form(""), password: str = Form("")) -> Response:
        if visitors.accounts is None:
            return RedirectResponse("/", 303)
        async with checking:
            right = await asyncio.to_thread(visitors.accounts.check, name.strip(), password)
        if not right:
            return HTMLResponse(_page(name, "That name and password do not belong together."), 401)
        response = RedirectResponse("/", 303)
        secure = request.url.scheme == "https"
        response.set_cookie(
            COOKIE, visitors.enter(name.strip()), int(LASTS), httponly=True, samesite="lax", secure=secure
        )
        return response

    @router.post("/sign-out")
    def sign_out(request: Request) -> Response:
        visitors.leave(request)
        response = RedirectResponse("/sign-in", 303)
        response.delete_cookie(COOKIE)
        return response

    return router


def _page(name: str = "", mistake: str = "") -> str:
    note = f'<p class="mistake" role="alert">{escape(mistake)}</p>' if mistake else ""
    return _PAGE.replace("{name}", escape(name)).replace("{note}", note)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>malmm: sign in</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --ink: #1c1b29; --soft: #6b6880; --paper: #fff; --ground: #f4f3fa;
  --line: #dcd9ea; --accent: #5b4bd6 }
@media (prefers-color-scheme: dark) { :root { --ink: #eceaf6; --soft: #a29fb8; --paper: #1d1c29;
  --ground: #13121b; --line: #37354a; --accent: #8b7df0 } }
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--ground);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; padding: 16px }
form { width: min(360px, 100%); background: var(--paper); border: 1px solid var(--line); border-radius: 16px;
  padding: 32px; box-shadow: 0 12px 40px #2018600f }
h1 { font-size: 24px; margin: 0 0 4px; letter-spacing: -.02em }
p { margin: 0 0 24px; color: var(--soft) }
label { display: block; font-size: 14px; font-weight: 600; margin-bottom: 16px }
input { display: block; width: 100%; margin-top: 6px; padding: 10px 12px; font: inherit; color: inherit;
  border: 1px solid var(--line); border-radius: 10px; background: transparent }
input:focus { outline: 2px solid var(--accent); outline-offset: 1px }
button { width: 100%; padding: 11px; font: inherit; font-weight: 600; color: #fff; background: #5b4bd6;
  border: 0; border-radius: 10px; cursor: pointer }
.mistake { color: #c0334d; font-size: 14px; margin-bottom: 16px }
</style></head><body>
<form method="post" action="/sign-in">
<h1>malmm</h1><p>A chat that remembers what it was shown.</p>
<label>Name <input name="name" value="{name}" autocomplete="username" autocapitalize="none" required
  autofocus></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
{note}<button>Sign in</button>
</form></body></html>
"""
