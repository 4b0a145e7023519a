"""Coded errors as HTTP answers."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from starlette.responses import JSONResponse

from wherry_contract.errors import WherryError

_STATUS: Final[Mapping[str, HTTPStatus]] = {
    "R01": HTTPStatus.NOT_FOUND,
    "R02": HTTPStatus.CONFLICT,
    "R03": HTTPStatus.CONFLICT,
    "R04": HTTPStatus.NOT_FOUND,
    "R05": HTTPStatus.UNAUTHORIZED,
    "I01": HTTPStatus.BAD_REQUEST,
    "I02": HTTPStatus.FORBIDDEN,
    "I03": HTTPStatus.FORBIDDEN,
    "I04": HTTPStatus.FORBIDDEN,
    "I05": HTTPStatus.FORBIDDEN,
    "I07": HTTPStatus.FORBIDDEN,
    "I08": HTTPStatus.BAD_REQUEST,
    "R06": HTTPStatus.BAD_REQUEST,
    "R07": HTTPStatus.NOT_FOUND,
    "R08": HTTPStatus.CONFLICT,
    "R09": HTTPStatus.CONFLICT,
    "R11": HTTPStatus.CONFLICT,
    "R12": HTTPStatus.NOT_FOUND,
    "B02": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "D01": HTTPStatus.INSUFFICIENT_STORAGE,
    "D06": HTTPStatus.SERVICE_UNAVAILABLE,
}


def status_of(error: WherryError) -> HTTPStatus:
    """The rough kind of an error, as a status."""
    return _STATUS.get(error.code, HTTPStatus.UNPROCESSABLE_ENTITY)


def error_response(error: WherryError) -> JSONResponse:
    """A coded error as JSON; its status says the rough kind."""
    document = {
        "schema": "wherry/error/1",
        "code": error.code,
        "title": error.title,
        "detail": error.detail,
        "next": error.cure,
    }
    status = status_of(error)
    # who sends too much is not listened to until the end
    headers = {"Connection": "close"} if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else None
    return JSONResponse(document, status, headers)
