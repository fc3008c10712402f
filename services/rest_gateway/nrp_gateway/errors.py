"""Errors as HTTP answers: always `{"message", "type", "data"}` in JSON, never a page, a stack trace or a secret."""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar, Final

import structlog
from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from nrp_common import tracing
from nrp_common.errors import (
    BusUnavailable,
    CommandRefused,
    CommandTimeout,
    ExperimentNotFound,
    InvalidName,
    InvalidToken,
    InvalidTransition,
    NRPError,
    SimulationFinal,
    StorageError,
    StorageForbidden,
    StorageFull,
    StorageUnavailable,
    StoredFileNotFound,
)

CLIENT_ERROR: Final = "Client error"
TRANSITION_ERROR: Final = "State Transition error"
SERVER_ERROR: Final = "Server Error"
GENERAL_ERROR: Final = "General error"

log = structlog.get_logger(__name__)


class RequestError(NRPError):
    """The request cannot be carried out as it is.

    Attributes:
        status: the HTTP status that says so.
        type: the error's type, as NRP 4 clients know it.
        retry_after_s: in how many seconds it may be worth trying again, None when it is not.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.BAD_REQUEST
    type: ClassVar[str] = CLIENT_ERROR

    def __init__(self, message: str | None = None, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InvalidState(RequestError):
    """A state was asked for that is none, or that clients cannot ask for."""

    type = TRANSITION_ERROR

    def __init__(self, state: str) -> None:
        super().__init__(f"Invalid state requested: ({state})")


class MayNotView(RequestError):
    """Insufficient permissions to see the simulation changes. You can only see the simulations you own or those for which the experiment has been shared with you"""  # noqa: D400, D415, E501  the wire's words

    status = HTTPStatus.UNAUTHORIZED


class NotTheOwner(RequestError):
    """Insufficient permissions to apply changes. Operation only allowed by simulation owner"""  # noqa: D400, D415  the wire's words

    status = HTTPStatus.UNAUTHORIZED


class SimulationNotFound(RequestError):
    """The simulation with the given ID was not found"""  # noqa: D400, D415  the wire's words

    status = HTTPStatus.NOT_FOUND


class NotThere(RequestError):
    """What the path names does not exist."""

    status = HTTPStatus.NOT_FOUND


class BodyTooLarge(RequestError):
    """The request's body is too large."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class NoRoom(RequestError):
    """There is no room for another simulation."""

    status = HTTPStatus.CONFLICT


class Unreachable(RequestError):
    """A part of the backend that the request needs cannot be reached."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = SERVER_ERROR


_ANSWERS: Final[dict[type[NRPError], tuple[HTTPStatus, str]]] = {
    InvalidTransition: (HTTPStatus.BAD_REQUEST, TRANSITION_ERROR),
    SimulationFinal: (HTTPStatus.BAD_REQUEST, TRANSITION_ERROR),
    CommandRefused: (HTTPStatus.BAD_REQUEST, TRANSITION_ERROR),
    CommandTimeout: (HTTPStatus.GATEWAY_TIMEOUT, SERVER_ERROR),
    BusUnavailable: (HTTPStatus.SERVICE_UNAVAILABLE, SERVER_ERROR),
    InvalidToken: (HTTPStatus.UNAUTHORIZED, CLIENT_ERROR),
    StorageForbidden: (HTTPStatus.UNAUTHORIZED, CLIENT_ERROR),
    ExperimentNotFound: (HTTPStatus.NOT_FOUND, CLIENT_ERROR),
    StoredFileNotFound: (HTTPStatus.NOT_FOUND, CLIENT_ERROR),
    InvalidName: (HTTPStatus.BAD_REQUEST, CLIENT_ERROR),
    StorageFull: (HTTPStatus.INSUFFICIENT_STORAGE, SERVER_ERROR),
    StorageUnavailable: (HTTPStatus.SERVICE_UNAVAILABLE, SERVER_ERROR),
    StorageError: (HTTPStatus.SERVICE_UNAVAILABLE, SERVER_ERROR),
}
"""What the errors that gateway, launcher and server share are over HTTP; the first class that fits counts."""


def answer_errors_in_json(app: Flask) -> None:
    """Have `app` answer every error with the body that NRP clients expect."""
    app.register_error_handler(NRPError, _known_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected_error)


def _known_error(error: NRPError) -> Response:
    if isinstance(error, RequestError):
        status, error_type, retry_after_s = error.status, error.type, error.retry_after_s
    else:
        known = next((answer for kind, answer in _ANSWERS.items() if isinstance(error, kind)), None)
        if known is None:
            return _unexpected_error(error)
        status, error_type, retry_after_s = *known, None
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("A request failed", method=request.method, path=request.path, status=int(status), reason=str(error))
    return _answer(str(error), error_type, status, retry_after_s)


def _http_error(error: HTTPException) -> Response:
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    messages = {
        HTTPStatus.NOT_FOUND: f"There is nothing at {request.path}",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.path} cannot be called with {request.method}",
    }
    error_type = GENERAL_ERROR if status >= HTTPStatus.INTERNAL_SERVER_ERROR else CLIENT_ERROR
    answer = _answer(messages.get(status, f"{status.phrase}: {error.description}"), error_type, status)
    for name, value in error.get_headers():
        if name.title() in ("Allow", "Retry-After"):
            answer.headers[name] = value
    return answer


def _unexpected_error(error: Exception) -> Response:
    log.error("A request met an unexpected error", method=request.method, path=request.path, exc_info=error)
    message = f"An unexpected error occurred; the gateway's log says more of request {tracing.current().request_id}"
    return _answer(message, GENERAL_ERROR, HTTPStatus.INTERNAL_SERVER_ERROR)


def _answer(message: str, error_type: str, status: HTTPStatus, retry_after_s: int | None = None) -> Response:
    answer = jsonify(message=message, type=error_type, data=None)
    answer.status_code = status
    if retry_after_s is not None:
        answer.headers["Retry-After"] = str(retry_after_s)
    return answer
