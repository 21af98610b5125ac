"""The engine: requests become tiles, tiles are made on worker threads, streams hand them out in order."""

from weightloom.engine.calls import Call, current_request_id
from weightloom.engine.engine import Engine, Fabrication
from weightloom.engine.factors import Residency
from weightloom.engine.limits import EngineLimits
from weightloom.engine.observer import Observer
from weightloom.engine.residency import ResidencyStatus

__all__ = [
    "Call",
    "Engine",
    "EngineLimits",
    "Fabrication",
    "Observer",
    "Residency",
    "ResidencyStatus",
    "current_request_id",
]
