"""The table of docs/errors.md, as the code has it: which codes there are, and the status of each by front."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import grpc
from weightloom.errors import WeightloomError
from weightloom.http_status import STATUS as REST_STATUS
from weightloom.rest.problems import ROUTING_CODES
from weightloom.rpc.status import STATUS as RPC_STATUS

__all__ = ["REST_TABLE", "RPC_TABLE"]

T = TypeVar("T")


def _classes(base: type[WeightloomError] = WeightloomError) -> Iterator[type[WeightloomError]]:
    yield base
    for derived in base.__subclasses__():
        yield from _classes(derived)


def _nearest(table: dict[type[WeightloomError], T], one: type[WeightloomError]) -> T:
    return next(table[base] for base in one.__mro__ if base in table)


REST_TABLE: dict[str, int] = {code: _nearest(REST_STATUS, one) for one in _classes() for code in one.codes} | {
    code: status for status, code in ROUTING_CODES.items()
}
RPC_TABLE: dict[str, grpc.StatusCode] = {code: _nearest(RPC_STATUS, one) for one in _classes() for code in one.codes}
