"""What the engine tells about its work. This class listens to nothing; ``telemetry`` has the one that counts.

The engine knows no metrics library, since the command line uses it in the base install.
"""

from __future__ import annotations

from weightloom.engine.calls import Call

__all__ = ["Observer"]


class Observer:
    """Every method may be called from any thread and must return at once."""

    def call_ended(self, call: Call) -> None:
        """A call has ended, well or not: see ``Call`` for what it knows."""

    def pass_made(self, tiles: int) -> None:
        """A worker drew (or read) factors once for so many tiles."""

    def load_changed(self, running: int, waiting: int, bytes_in_flight: int) -> None:
        """Streams that run, requests that wait for the gate, and bytes that both may hold."""

    def factors_held(self, store: str, size: int) -> None:
        """Bytes that the store "T" or "PQS" holds now."""

    def factor_used(self, store: str) -> None:
        """A factor was there already."""

    def factor_built(self, store: str) -> None:
        """A factor was drawn to be kept."""

    def factor_evicted(self, store: str) -> None:
        """A factor was given up."""
