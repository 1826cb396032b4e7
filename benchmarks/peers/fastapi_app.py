"""What the FastAPI peers share: the parameters of a call, its credentials, and uvicorn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Query, Request

from benchmarks.peers.lookup import Wiring, listening_socket, number_of


@dataclass(frozen=True, slots=True)
class CallQuery:
    key: str
    virtual_number: int
    caller: int
    pin: str


async def call_query(
    key: str,
    call_to: Annotated[str, Query(alias="CallTo")],
    call_from: Annotated[str, Query(alias="CallFrom")],
    digits: str = "",
) -> CallQuery:
    # A coroutine, because FastAPI runs plain functions in a thread.
    return CallQuery(key, number_of(call_to), number_of(call_from), digits.strip('"'))


Call: TypeAlias = Annotated[CallQuery, Depends(call_query)]


def admitted(request: Request, tenant: str, call: CallQuery) -> None:
    """Raises HTTPException."""
    wiring: Wiring = request.app.state.wiring
    if not wiring.admits(tenant, call.key):
        raise HTTPException(401)


def serve(app: FastAPI) -> None:
    app.state.wiring = Wiring.from_environment()
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    uvicorn.Server(config).run(sockets=[listening_socket()])
