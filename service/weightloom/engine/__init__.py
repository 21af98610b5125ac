"""The engine: requests become tiles, tiles are made on worker threads, streams hand them out in order."""

from weightloom.engine.engine import Engine, Fabrication
from weightloom.engine.limits import EngineLimits

__all__ = ["Engine", "EngineLimits", "Fabrication"]
