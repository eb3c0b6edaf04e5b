"""The ASGI application of `corgi serve`: a page, and an API with one queue for both."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from corgi_core.errors import CorgiError
from corgi_core.generation import Request as Generation
from corgi_core.io.html_pages import content_security_policy
from corgi_core.serving.answers import COMMON_HEADERS, PNG, json_answer, png_answer
from corgi_core.serving.engine import Engine, Model
from corgi_core.serving.limits import BodyLimit
from corgi_core.serving.metrics import ServingMetrics
from corgi_core.serving.orders import generation_of
from corgi_core.serving.pictures import OrderedPicture, Picture
from corgi_core.serving.problems import (
    RefusedError,
    of_corgi_error,
    of_defect,
    of_http_error,
    of_invalid_request,
    problems,
)
from corgi_core.serving.schemas import (
    ID,
    EmbeddingMapCard,
    Health,
    ImageOrder,
    MadeImages,
    ModelCard,
    Progress,
    TrajectoryOrder,
    Way,
)
from corgi_core.serving.way_to_an_image import OrderedWay

if TYPE_CHECKING:
    from corgi_core.serving.queue import Job
    from corgi_core.serving.reloading import ModelWatch

PAGE = Path(__file__).with_name("page.html")
DECODED_AT_ONCE = 2  # requests, of two images each, which need up to 0.3 GB
CLIENT_GONE = 499  # which nobody reads


class Api:
    """The routes and what they share.

    Args:
        engine: Samples what is asked for.
        metrics: What /metrics shows.
        watch: Loads promoted models; None where the models stay.
    """

    def __init__(
        self, engine: Engine, metrics: ServingMetrics, watch: ModelWatch | None = None
    ) -> None:
        self._engine, self._metrics, self._watch = engine, metrics, watch
        self._running: dict[str, Job[Any, Picture]] = {}
        self._decoding = ThreadPoolExecutor(DECODED_AT_ONCE, "decoding")
        self._html = PAGE.read_bytes()

    def app(self) -> FastAPI:
        """The ASGI application."""
        app = FastAPI(
            title="Corgi", version="1", docs_url=None, redoc_url=None,
            description="Images of captions and images. Errors are RFC 9457 problems.",
            exception_handlers={
                CorgiError: of_corgi_error, RequestValidationError: of_invalid_request,
                HTTPException: of_http_error, Exception: of_defect,
            },
        )  # fmt: skip
        app.state.engine = self._engine
        status = HTTPStatus
        app.add_api_route("/", self._page, methods=["GET"], include_in_schema=False)
        app.add_api_route(
            "/v1/images", self._make, methods=["POST"], response_model=MadeImages,
            summary="Make images",
            responses={
                200: {"content": {PNG: {"schema": {"type": "string", "format": "binary"}}}},
                **problems(
                    status.BAD_REQUEST, status.NOT_ACCEPTABLE, status.CONFLICT,
                    status.REQUEST_ENTITY_TOO_LARGE, status.UNPROCESSABLE_ENTITY,
                    status.TOO_MANY_REQUESTS, status.SERVICE_UNAVAILABLE,
                ),
            },
        )  # fmt: skip
        app.add_api_route(
            "/v1/images/{id}", self._cancel, methods=["DELETE"], status_code=204,
            summary="Cancel a request by its id",
            responses=problems(status.NOT_FOUND, status.UNPROCESSABLE_ENTITY),
        )  # fmt: skip
        app.add_api_route(
            "/v1/images/{id}", self._progress, methods=["GET"], response_model=Progress,
            summary="How far a request is, by its id",
            responses=problems(status.NOT_FOUND, status.UNPROCESSABLE_ENTITY),
        )  # fmt: skip
        app.add_api_route(
            "/v1/trajectory", self._show_way, methods=["POST"], response_model=Way,
            summary="How an image of a prompt comes to be, step by step",
            responses=problems(
                status.BAD_REQUEST, status.REQUEST_ENTITY_TOO_LARGE, status.UNPROCESSABLE_ENTITY,
                status.TOO_MANY_REQUESTS, status.SERVICE_UNAVAILABLE,
            ),
        )  # fmt: skip
        app.add_api_route(
            "/v1/map", self._map, methods=["GET"], response_model=EmbeddingMapCard,
            summary="The map on which the ways lead",
        )  # fmt: skip
        app.add_api_route(
            "/v1/model", self._model, methods=["GET"], response_model=ModelCard,
            summary="The models that answer",
        )  # fmt: skip
        app.add_api_route(
            "/healthz", self._health, methods=["GET"], response_model=Health,
            summary="Whether the process works",
            responses={503: {"model": Health, "description": "Start it again."}},
        )  # fmt: skip
        app.add_api_route(
            "/readyz", self._readiness, methods=["GET"], response_model=Health,
            summary="Whether requests are answered, and by the newest models",
            responses={503: {"model": Health, "description": "Send requests elsewhere."}},
        )  # fmt: skip
        app.add_api_route(
            "/metrics", self._figures, methods=["GET"], response_class=Response,
            summary="Figures for Prometheus",
            responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        )  # fmt: skip
        app.add_middleware(BodyLimit, metrics=self._metrics)
        return app

    async def _page(self) -> Response:
        policy = content_security_policy(self._html.decode(), pictures="'self' data: blob:")
        headers = {**COMMON_HEADERS, "Content-Security-Policy": policy}
        return Response(self._html, media_type="text/html", headers=headers)

    async def _make(self, order: ImageOrder, request: Request) -> Response:
        model = self._engine.model
        asked = await self._asked(order, model)
        as_png = _wants_png(request.headers.get("accept", ""), asked.num_images)
        ordered = [
            OrderedPicture(
                asked, number, order.gaussian, order.decoder, order.nearest, order.prior_steps
            )
            for number in range(asked.num_images)
        ]
        if order.id in self._running:
            raise RefusedError(
                HTTPStatus.CONFLICT,
                f"a request with the id {order.id!r} is running",
                "choose another id",
            )
        job = self._engine.submit(model, ordered)
        if order.id is not None:
            self._running[order.id] = job
        try:
            if not await self._is_awaited(job, request):
                return Response(status_code=CLIENT_GONE)
        finally:
            if self._engine.queue.cancel(job):
                self._metrics.cancelled.inc()
            self._running.pop(order.id or "", None)
        answer = png_answer if as_png else json_answer
        return await run_in_threadpool(answer, model, order, asked, job.result.result())

    async def _asked(self, order: ImageOrder, model: Model) -> Generation:
        """What an order asks; its images are decoded where the queue has room, and few at once."""
        if not order.images:
            return generation_of(order, model.about)
        self._engine.queue.check_room(order.num_images or 1)
        decoded = asyncio.get_running_loop().run_in_executor
        return await decoded(self._decoding, generation_of, order, model.about)

    async def _is_awaited(self, job: Job[Any, Picture], request: Request) -> bool:
        """Wait for a job; False where the client goes away before it has ended."""
        result = asyncio.wrap_future(job.result)
        gone = asyncio.ensure_future(_client_gone(request))
        try:
            waited: set[asyncio.Future[Any]] = {result, gone}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            return result.done()
        finally:
            gone.cancel()
            if not result.cancel():
                result.exception()  # which `job.result` raises again

    async def _cancel(self, id: Annotated[str, InPath(pattern=ID)]) -> Response:
        job = self._running.get(id)
        if job is None or not self._engine.queue.cancel(job):
            raise _not_running(id)
        self._metrics.cancelled.inc()
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _progress(self, id: Annotated[str, InPath(pattern=ID)]) -> Progress:
        job = self._running.get(id)
        if job is None:
            raise _not_running(id)
        ahead = self._engine.queue.ahead_of(job)
        return Progress(ahead=ahead, made=job.made, total=len(job.items))

    async def _show_way(self, order: TrajectoryOrder, request: Request) -> Response:
        model, way = self._engine.model, OrderedWay(**order.model_dump())
        decoded = (way.prior_steps or model.about["prior_steps"]) + 1
        job = self._engine.submit(model, [way], weight=decoded)
        try:
            if not await self._is_awaited(job, request):
                return Response(status_code=CLIENT_GONE)
        finally:
            if self._engine.queue.cancel(job):
                self._metrics.cancelled.inc()
        return JSONResponse(job.result.result()[0], headers=COMMON_HEADERS)

    async def _map(self) -> Response:
        found = await run_in_threadpool(lambda: self._engine.model.map)
        return JSONResponse(found, headers=COMMON_HEADERS)

    async def _model(self) -> dict[str, Any]:
        return self._engine.model.about

    async def _health(self) -> Response:
        if self._engine.is_alive:
            return _health(HTTPStatus.OK, Health(status="ok"))
        return _health(
            HTTPStatus.SERVICE_UNAVAILABLE,
            Health(
                status="failed", detail="the thread that samples has ended",
                remedy="read the log, and start the server again",
            ),
        )  # fmt: skip

    async def _readiness(self) -> Response:
        queue = self._engine.queue
        if not self._engine.is_alive or queue.size >= queue.capacity:
            busy = f"{queue.size} of {queue.capacity} pictures are waiting"
            return _health(
                HTTPStatus.SERVICE_UNAVAILABLE,
                Health(status="busy", detail=busy, remedy="send requests elsewhere, or wait"),
            )
        if self._watch and self._watch.failure:  # which may name folders: the log has it
            return _health(
                HTTPStatus.OK,
                Health(
                    status="stale", detail="the newest models cannot be loaded",
                    remedy="read the log for the cause; promote others, or roll back",
                ),
            )  # fmt: skip
        return _health(HTTPStatus.OK, Health(status="ready"))

    async def _figures(self) -> Response:
        is_stale = bool(self._watch and self._watch.failure)
        text = self._metrics.text(self._engine, is_stale)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _wants_png(accept: str, num_images: int) -> bool:
    """Whether the answer is the PNG alone; RefusedError where several would have to be one."""
    kinds = {kind.partition(";")[0].strip().lower() for kind in accept.split(",")}
    if PNG not in kinds or "application/json" in kinds:
        return False
    if num_images > 1:
        raise RefusedError(
            HTTPStatus.NOT_ACCEPTABLE,
            f"{num_images} images are more than one PNG",
            "ask for one image, or accept application/json",
        )
    return True


def _not_running(id: str) -> RefusedError:
    return RefusedError(
        HTTPStatus.NOT_FOUND,
        f"no request with the id {id!r} is running",
        "it may have ended; give requests an id of your own",
    )


async def _client_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _health(status: HTTPStatus, health: Health) -> Response:
    return JSONResponse(health.model_dump(), status, headers=COMMON_HEADERS)
