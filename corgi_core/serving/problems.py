"""Errors as RFC 9457 has them: application/problem+json, with a remedy beside each problem."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from corgi_core.errors import CorgiError
from corgi_core.serving.queue import CancelledError, ClosedError, FullError

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
RESTART = 5  # seconds, about, until another server answers
READ_THE_SCHEMA = "compare the request with /openapi.json"
LATER = "wait as long as Retry-After says, and ask again"
STATUS_OF = {
    FullError: HTTPStatus.TOO_MANY_REQUESTS,
    ClosedError: HTTPStatus.SERVICE_UNAVAILABLE,
    CancelledError: HTTPStatus.CONFLICT,
}


class RefusedError(CorgiError):
    """A request that is refused with a status of its own."""

    def __init__(self, status: HTTPStatus, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.status = status


class WrongValue(BaseModel):
    """A value of a request that is none."""

    where: str
    problem: str


class Problem(BaseModel):
    """What is wrong with a request, and what to do about it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    remedy: str
    errors: list[WrongValue] | None = None


def problem(
    status: HTTPStatus,
    detail: str,
    remedy: str,
    errors: list[WrongValue] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer that says what is wrong."""
    content = Problem(
        title=status.phrase, status=status, detail=detail, remedy=remedy, errors=errors
    )
    return JSONResponse(
        content.model_dump(exclude_none=True), status, headers, media_type=MEDIA_TYPE
    )


def problems(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The descriptions of these answers for the OpenAPI schema."""
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs")
    content = {MEDIA_TYPE: {"schema": schema}}
    return {int(each): {"description": each.phrase, "content": content} for each in statuses}


async def of_corgi_error(request: Request, error: Exception) -> Response:
    """A CorgiError as its problem: 422 where it has no status of its own."""
    assert isinstance(error, CorgiError)
    status = STATUS_OF.get(type(error), HTTPStatus.UNPROCESSABLE_ENTITY)
    if isinstance(error, RefusedError):
        status = error.status
    headers = {}
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        headers["Retry-After"] = str(request.app.state.engine.seconds_ahead)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RESTART)
    return problem(status, error.problem, error.remedy, headers=headers)


async def of_invalid_request(request: Request, error: Exception) -> Response:
    """What the schema refuses, value by value."""
    assert isinstance(error, RequestValidationError)
    errors = [
        WrongValue(where=".".join(map(str, each["loc"])), problem=each["msg"])
        for each in error.errors()
    ]
    detail = "; ".join(f"{each.where}: {each.problem}" for each in errors[:3])
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, READ_THE_SCHEMA, errors)


async def of_http_error(request: Request, error: Exception) -> Response:
    """An unknown path, a method that is none here, a body that cannot be read or held."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    remedy = LATER if status == HTTPStatus.SERVICE_UNAVAILABLE else READ_THE_SCHEMA
    return problem(status, str(error.detail), remedy, headers=error.headers)


async def of_defect(request: Request, error: Exception) -> Response:
    """Any other error: a defect of ours, which the log has and the client does not."""
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        f"the server failed ({type(error).__name__})",
        "read the server's log for the cause; report it if it is none of yours",
    )
