"""Errors of the OpenAI-compatible endpoint, in OpenAI's format."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from malmm.chat.web_gate import API, error_body


class APIError(Exception):
    """An answer that is an error, in OpenAI's format."""

    def __init__(self, status: int, sentence: str, **more: Any) -> None:
        super().__init__(sentence)
        self.response = JSONResponse(error_body(sentence, **more), status)


def invalid_body(error: ValidationError) -> APIError:
    """The first thing that is wrong with a body, with where it stands."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return APIError(400, f"{where or 'the body'}: {first['msg']}", param=where or None)


def handle_errors(app: FastAPI) -> None:
    """Below /v1 every error is in OpenAI's format."""

    @app.exception_handler(APIError)
    async def told(_: Request, error: APIError) -> Response:
        return error.response

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if request.url.path.startswith(API):
            return JSONResponse(error_body(str(error.detail)), error.status_code, error.headers)
        return Response(str(error.detail), error.status_code, error.headers, "text/plain")

    @app.exception_handler(Exception)
    async def failed(request: Request, _: Exception) -> Response:
        sentence = "the server made a mistake: its log says which"
        if request.url.path.startswith(API):
            return JSONResponse(error_body(sentence, "server_error"), 500)
        return Response(sentence, 500, media_type="text/plain")
