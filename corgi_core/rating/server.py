"""The page that people rate on, served on this machine alone.

Starlette and uvicorn serve it: MLflow brings both, and they know what a server of one's own would
have to learn (hosts, keep-alive, limits, many raters at once).

Nothing that a browser gets names a model: a picture's address has the rater's slot and a position,
and its bytes are pixels without the metadata that Corgi writes. A vote is taken only from this very
page: a request's Host must be one that the page is served under, and its Origin the same, or that
of a proxy that was named.
"""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from corgi_core.errors import CorgiError
from corgi_core.io.html_pages import content_security_policy
from corgi_core.rating.survey import Slot, Survey
from corgi_core.rating.votes import NAME, RefusedVoteError, VoteStore
from corgi_core.suites.folder import SuiteFolder

if TYPE_CHECKING:
    from starlette.requests import Request

log = logging.getLogger(__name__)
HOST = "127.0.0.1"
PAGE = Path(__file__).with_name("page.html")
HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
LARGEST_VOTE = 4096  # bytes
FAREWELL = 2  # seconds that open connections have at the end
COMMON_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class RatingPage:
    """The page, its questions, its pictures and its votes.

    Attributes:
        folder: The pictures.
        store: The votes, with the survey that they answer.
        names: Host names under which a proxy serves the page, beside this machine's own.

    Raises:
        CorgiError: If a name is no plain host name.
    """

    def __init__(self, folder: SuiteFolder, store: VoteStore, names: Sequence[str] = ()) -> None:
        self.folder, self.store = folder, store
        self.names = tuple(map(_host_name, names))
        self.survey: Survey = store.survey
        self._html = PAGE.read_bytes()

    def app(self) -> Starlette:
        """The ASGI application."""
        hosts = [HOST, "localhost", *self.names]
        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/next", self._next),
                Route("/votes", self._vote, methods=["POST"]),
                Route("/pictures/{rater}/{slot:int}/{position:int}", self._picture),
            ],
            middleware=[Middleware(TrustedHostMiddleware, hosts, www_redirect=False)],
            exception_handlers={RefusedVoteError: _refusal},
        )

    def next_question(self, rater: str) -> dict[str, Any]:
        """What a rater is asked next, without a model's name; "done" where nothing is left."""
        slots, answered = self.survey.slots(rater), self.store.answered(rater)
        asked = next((slot for slot in slots if slot.number not in answered), None)
        about = {"survey": self.survey.digest, "total": len(slots), "answered": len(answered)}
        if asked is None:
            return {**about, "done": True}
        return {
            **about, "done": False, "slot": asked.number, "kind": self.survey.kind,
            "prompt": asked.question.text,
            "pictures": [f"pictures/{rater}/{asked.number}/{i}" for i in range(len(asked.models))],
        }  # fmt: skip

    def count(self, vote: dict[str, Any]) -> bool:
        """Count a vote that a browser sent; False where it was counted before."""
        if vote.get("survey") != self.survey.digest:
            raise RefusedVoteError("this page is of another survey", "load the page again")
        rater = str(vote.get("rater"))
        slot = self._slot(rater, vote.get("slot"))
        if slot is None:
            raise RefusedVoteError(
                "there is no such question, and the vote does not count", "load the page again"
            )
        return self.store.record(str(vote.get("key")), slot, rater, vote, self.survey.digest)

    def _slot(self, rater: str, number: object) -> Slot | None:
        if not NAME.fullmatch(rater) or type(number) is not int:
            return None
        slots = self.survey.slots(rater)
        return slots[number] if 0 <= number < len(slots) else None

    def _page(self, request: Request) -> Response:
        headers = {
            **COMMON_HEADERS,
            "Content-Security-Policy": content_security_policy(self._html.decode()),
        }
        return Response(self._html, media_type="text/html", headers=headers)

    def _next(self, request: Request) -> Response:
        rater = request.query_params.get("rater", "")
        if not NAME.fullmatch(rater):
            raise RefusedVoteError("the rater is none that this page gives", "load the page again")
        return JSONResponse(self.next_question(rater), headers=COMMON_HEADERS)

    async def _vote(self, request: Request) -> Response:
        origin = urlsplit(request.headers.get("origin", ""))
        if origin.netloc != request.headers["host"] and origin.hostname not in self.names:
            raise RefusedVoteError("the vote comes from another page", "vote on the page itself")
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise RefusedVoteError("the vote is not JSON", "vote on the page itself")
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > LARGEST_VOTE:
                raise RefusedVoteError("the vote is too long", "vote on the page itself")
        try:
            vote = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RefusedVoteError("the vote is not JSON", "vote on the page itself") from error
        if not isinstance(vote, dict):
            raise RefusedVoteError("the vote is no object", "vote on the page itself")
        new = await run_in_threadpool(self.count, vote)
        return JSONResponse({"counted": True, "new": new}, headers=COMMON_HEADERS)

    def _picture(self, request: Request) -> Response:
        asked = request.path_params
        slot = self._slot(asked["rater"], asked["slot"])
        if slot is None or asked["position"] >= len(slot.models):
            raise RefusedVoteError("there is no such picture", "load the page again")
        question = slot.question
        path = self.folder.picture(slot.models[asked["position"]], question.prompt, question.seed)
        return Response(_pixels(path), media_type="image/png", headers=COMMON_HEADERS)


def serve(app: Starlette, port: int, announce: Callable[[str], None]) -> None:
    """Serve until a signal comes.

    Args:
        app: The application.
        port: Of this machine's loopback address.
        announce: Is called with the page's address when it answers there.

    Raises:
        CorgiError: If the port is taken.
    """
    with listening_on(port) as listener:
        announce(f"http://{HOST}:{listener.getsockname()[1]}")
        server_of(app).run(sockets=[listener])


def listening_on(port: int) -> socket.socket:
    """A socket on the loopback address; 0 is any free port."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise CorgiError(
            f"port {port} is taken ({error.strerror})", "choose another with --port"
        ) from error


def server_of(app: Starlette) -> uvicorn.Server:
    """uvicorn, with nothing that the page does not need."""
    return uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", ws="none",
            timeout_graceful_shutdown=FAREWELL, server_header=False,
        )
    )  # fmt: skip


def _host_name(name: str) -> str:
    """A host name as browsers send it, in lower case."""
    if not HOST_NAME.fullmatch(name.lower()):
        raise CorgiError(
            f"{name!r} is no host name",
            "give the name alone, without https://, port, path or *, such as "
            "--public-name rate.example.org",
        )
    return name.lower()


def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedVoteError)
    said = {"counted": False, "problem": error.problem, "remedy": error.remedy}
    return JSONResponse(said, status_code=409, headers=COMMON_HEADERS)


def _pixels(path: Path) -> bytes:
    """The picture as a PNG of nothing but its pixels."""
    content = BytesIO()
    try:
        with Image.open(path) as image:
            bare = Image.new("RGB", image.size)
            bare.paste(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        log.warning("raters cannot be shown %s: %s", path, error)
        raise RefusedVoteError("a picture is missing or damaged", "make it again") from error
    bare.save(content, format="PNG")
    return content.getvalue()
