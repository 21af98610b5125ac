"""What the server tells about itself: metrics, logs, traces. The engine sees an ``Observer`` and nothing else of it."""

from weightloom.telemetry.counting import exposition
from weightloom.telemetry.logs import configure
from weightloom.telemetry.observing import observing

__all__ = ["configure", "exposition", "observing"]
