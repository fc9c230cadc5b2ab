"""The page of `digits review`: a web server for one person on this machine, and nobody else.

It listens on the loopback address only. Every request must carry the token that is in the printed address: the page in
its query, all else in a header, which no other page can send. The name by which the server is called must be a local
one, so that no name of a stranger's can be made to point here (DNS rebinding). The page loads nothing from anywhere.
"""

import base64
import hashlib
import os
import re
import secrets
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from digits.errors import DigitsError, UsageError, os_errors_as
from digits.images.decode import DecodeError
from digits.outputs.drawing import data_uri
from digits.review.session import Review

ADDRESS = "127.0.0.1"
PAGE = Path(__file__).with_name("review.html")
TOKEN_HEADER = "X-Digits-Token"  # noqa: S105 - its name
NO_TOKEN = "open the address that `digits review` has printed: it has the token"  # noqa: S105 - a sentence
HISTORY = 200
"""Answers of earlier sittings that can be taken back by undo."""
MOST_ITEMS = 100
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
_FIXED_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Event(BaseModel):
    """Something the person did: an answer (`sha256` and `label`), or an answer's `undoes`; `id` is made by the page."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern="^[0-9a-f]{32}$")
    sha256: str = Field("", max_length=64)
    label: str = Field("", max_length=16)
    undoes: str = Field("", max_length=64)


def application(review: Review, token: str) -> FastAPI:
    """Give the server's application for a review that is open."""
    page = PAGE.read_text("utf-8")
    headers = {**_FIXED_HEADERS, "Content-Security-Policy": _policy(page)}
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[ADDRESS, "localhost"])
    app.add_exception_handler(DigitsError, _refuse)

    @app.middleware("http")
    async def guard(request: Request, go_on: Callable[..., Any]) -> Response:
        """Ask for the token before anything else of a request is read."""
        place = request.query_params if request.url.path == "/" else request.headers
        given = place.get("token" if request.url.path == "/" else TOKEN_HEADER, "")
        may = secrets.compare_digest(given.encode(), token.encode())
        response: Response = await go_on(request) if may else JSONResponse({"error": NO_TOKEN}, 403)
        response.headers.update(headers)
        return response

    @app.get("/")
    def show() -> HTMLResponse:
        return HTMLResponse(page)

    app.include_router(_reading(review), prefix="/api")
    app.include_router(_answering(review), prefix="/api")
    return app


def _reading(review: Review) -> APIRouter:
    """Give what the page shows: the review as a whole, its images by their places in the queue, their pictures."""
    router = APIRouter()

    @router.get("/review")
    def begin() -> dict[str, Any]:
        places = {picked.image.sha256: place for place, picked in enumerate(review.queue)}
        return {
            "table": review.table.name,
            "images": len(review.queue),
            "first": review.first_unanswered(),
            "known": review.selection.known,
            "history": [{"place": places[one.sha256], "id": one.id} for one in review.history(HISTORY)],
            "progress": review.progress().as_record(),
        }

    @router.get("/images")
    def describe(start: Annotated[int, Query(ge=0)], count: Annotated[int, Query(ge=1, le=MOST_ITEMS)]) -> list[Any]:
        return [_described(review, place) for place in range(start, min(start + count, len(review.queue)))]

    @router.get("/images/{place}")
    def draw(place: int) -> dict[str, str]:
        if not 0 <= place < len(review.queue):
            raise HTTPException(404, "there is no such image")
        try:
            pictures = review.pictures(review.queue[place])
        except DecodeError as error:
            return {"fault": str(error)}
        return {"whole": data_uri(pictures.whole), "seen": data_uri(pictures.seen)}

    return router


def _answering(review: Review) -> APIRouter:
    """Give what takes the answers, one at a time, and says how far the review is."""
    router = APIRouter()

    @router.post("/answers")
    def take(event: Event) -> dict[str, Any]:
        if event.undoes:
            review.undo(event.undoes, name=event.id)
        else:
            review.answer(event.sha256, event.label, name=event.id)
        return review.progress().as_record()

    return router


async def _refuse(_: Request, error: Exception) -> Response:
    """Tell an expected error: 409 where the same request will fail again, 503 where it may be mended meanwhile."""
    return JSONResponse({"error": str(error)}, 409 if isinstance(error, (DecodeError, UsageError)) else 503)


def _described(review: Review, place: int) -> dict[str, Any]:
    picked = review.queue[place]
    answer = review.answer_to(picked)
    image = picked.image._asdict()
    return {**image, "suggestion": picked.image.suggestion, "stratum": picked.stratum, "label": answer and answer.label}


def _policy(page: str) -> str:
    """Allow the page its own script and style, by their hashes, pictures that it holds itself, and this server."""
    allowed: Mapping[str, str] = {kind: _hashed(text) for kind, text in _INLINE.findall(page)}
    return (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def serve(review: Review, *, port: int, tell: Callable[[str], None], browse: bool) -> None:
    """Serve the page until Ctrl-C.

    Args:
        review: must be open.
        port: 0 for a free one.
        tell: is given the page's address once the server listens.
        browse: open it in the user's browser, where there is a screen.

    Raises:
        UsageError: the port is taken.
    """
    token = secrets.token_urlsafe(24)
    config = uvicorn.Config(
        application(review, token),
        log_level="critical",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.socket() as listening, _ended_by_interrupt(server):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with os_errors_as(UsageError, f"port {port}", "is unavailable", "choose another --port"):
            listening.bind((ADDRESS, port))
        listening.listen()
        address = f"http://{ADDRESS}:{listening.getsockname()[1]}/?token={token}"
        tell(address)
        if browse and _has_screen():
            webbrowser.open(address)
        server.run(sockets=[listening])


@contextmanager
def _ended_by_interrupt(server: uvicorn.Server) -> Iterator[None]:
    """Have Ctrl-C end the server from the first: before it listens to signals itself, asyncio's handler loses one."""

    def end(*_: object) -> None:
        server.should_exit = True

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _has_screen() -> bool:
    """Tell whether a browser would be a window; one in the terminal would be in the way."""
    return sys.platform != "linux" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
