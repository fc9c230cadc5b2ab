"""Web: the server of a review's web page, for one person on this machine.

The server listens on the loopback address only. Every request must contain the token of the printed address: the
request of the page in its query, all other requests in a header, which no other web page can send. The `Host` header
must be a local name, as a protection against DNS rebinding. A body of more than 1 MiB is refused. The page loads
nothing from other servers.
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
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from digits.errors import DigitsError, UsageError, os_errors_as
from digits.images.decode import DecodeError
from digits.outputs.drawing import data_uri
from digits.outputs.summary import name_page
from digits.review.session import Review

ADDRESS = "127.0.0.1"
PAGE = Path(__file__).with_name("review.html")
TOKEN_HEADER = "X-Digits-Token"  # noqa: S105 - its name
NO_TOKEN = "open the address that `digits review` printed, which contains the token"  # noqa: S105 - a sentence
HISTORY = 200
"""Number of answers of earlier sessions that can be undone."""
MAX_ITEMS = 100
"""Largest number of images per request."""
MAX_BODY_BYTES = 2**20
"""Largest body of a request."""
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
    """Event from the page: an answer (`sha256`, `label`), or the undoing of one (`undoes`, the `id` of the answer).

    `sha256` is the id of the image in the label log, which is longer for a page of a file.
    The page creates the `id` of each event.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern="^[0-9a-f]{32}$")
    sha256: str = Field("", max_length=80)
    label: str = Field("", max_length=16)
    undoes: str = Field("", max_length=64)


def create_app(review: Review, token: str) -> FastAPI:
    """Return the web application for an open review.

    Args:
        review: open review.
        token: secret that every request must contain.
    """
    page = PAGE.read_text("utf-8")
    headers = {**_FIXED_HEADERS, "Content-Security-Policy": _policy(page)}
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_BodyLimit)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[ADDRESS, "localhost"])
    app.add_exception_handler(DigitsError, _refuse)

    @app.middleware("http")
    async def require_token(request: Request, respond: Callable[..., Any]) -> Response:
        """Check the token before anything else of a request is read."""
        values = request.query_params if request.url.path == "/" else request.headers
        given = values.get("token" if request.url.path == "/" else TOKEN_HEADER, "")
        is_valid = secrets.compare_digest(given.encode(), token.encode())
        response: Response = await respond(request) if is_valid else JSONResponse({"error": NO_TOKEN}, 403)
        response.headers.update(headers)
        return response

    @app.get("/")
    def show() -> HTMLResponse:
        return HTMLResponse(page)

    app.include_router(_read_routes(review), prefix="/api")
    app.include_router(_answer_routes(review), prefix="/api")
    return app


class _BodyLimit:
    """Middleware that refuses a body of more than `MAX_BODY_BYTES` as soon as so many bytes have been received."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise HTTPException(413, f"expected at most {MAX_BODY_BYTES:,} bytes; reload the page")
            return message

        await self._app(scope, receive_limited, send)


def _read_routes(review: Review) -> APIRouter:
    """Return the routes for what the page shows: the review, images by their index in the queue, and their pictures."""
    router = APIRouter()

    @router.get("/review")
    def begin() -> dict[str, Any]:
        places = {queued.image.id: place for place, queued in enumerate(review.queue)}
        return {
            "table": review.table.name,
            "images": len(review.queue),
            "first": review.first_unanswered(),
            "known": review.left_out,
            "history": [{"place": places[one.sha256], "id": one.id} for one in review.history(HISTORY)],
            "progress": review.progress().as_record(),
        }

    @router.get("/images")
    def describe(start: Annotated[int, Query(ge=0)], count: Annotated[int, Query(ge=1, le=MAX_ITEMS)]) -> list[Any]:
        return [_described(review, place) for place in range(start, min(start + count, len(review.queue)))]

    @router.get("/images/{place}")
    def draw(place: int) -> dict[str, str]:
        if not 0 <= place < len(review.queue):
            raise HTTPException(404, "the review has no such image; reload the page")
        try:
            pictures = review.pictures(review.queue[place])
        except DecodeError as error:
            return {"fault": str(error)}
        return {"whole": data_uri(pictures.whole), "seen": data_uri(pictures.seen)}

    return router


def _answer_routes(review: Review) -> APIRouter:
    """Return the route that receives the answers, one at a time, and returns the progress."""
    router = APIRouter()

    @router.post("/answers")
    def take(event: Event) -> dict[str, Any]:
        if event.undoes:
            review.undo(event.undoes, undo_id=event.id)
        else:
            review.answer(event.sha256, event.label, answer_id=event.id)
        return review.progress().as_record()

    return router


async def _refuse(_: Request, error: Exception) -> Response:
    """Return the response to an expected error: 409 if the same request would fail again, 503 if it may succeed."""
    return JSONResponse({"error": str(error)}, 409 if isinstance(error, (DecodeError, UsageError)) else 503)


def _described(review: Review, place: int) -> dict[str, Any]:
    queued = review.queue[place]
    answer = review.answer_to(queued)
    image = queued.image._asdict()
    image |= {"sha256": queued.image.id, "path": name_page(queued.image.path, queued.image.page)}
    return {**image, "suggestion": queued.image.suggestion, "stratum": queued.stratum, "label": answer and answer.label}


def _policy(page: str) -> str:
    """Return the content security policy, which allows the page's own script and style, data URIs, and this server."""
    allowed: Mapping[str, str] = {kind: _hashed(text) for kind, text in _INLINE.findall(page)}
    return (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def serve(review: Review, *, port: int, on_ready: Callable[[str], None], browse: bool) -> None:
    """Serve the page until Ctrl-C.

    Args:
        review: open review.
        port: port to listen on; 0 for a free one.
        on_ready: function that is called with the page's address once the server listens.
        browse: whether to open the page in the user's browser, if there is a screen.

    Raises:
        UsageError: if the port is unavailable.
    """
    token = secrets.token_urlsafe(24)
    config = uvicorn.Config(
        create_app(review, token),
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
        on_ready(address)
        if browse and _has_screen():
            webbrowser.open(address)
        server.run(sockets=[listening])


@contextmanager
def _ended_by_interrupt(server: uvicorn.Server) -> Iterator[None]:
    """Let Ctrl-C end the server at any time, also before uvicorn has installed its own signal handlers."""

    def end(*_: object) -> None:
        server.should_exit = True

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _has_screen() -> bool:
    """Return whether there is a screen; without one, a text browser would open in the terminal."""
    return sys.platform != "linux" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
