"""``python -m weightloom.worker DESCRIPTOR``: one of several serving processes; only ``supervisor.py`` starts it.

It accepts from the socket of that descriptor. Its standard input brings the settings in one line of JSON and then
nothing: when it ends, the supervisor wants this worker to stop, or is gone. Its standard output is one line, READY.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from weightloom.errors import WeightloomError
from weightloom.main import run
from weightloom.settings import Settings
from weightloom.supervisor import READY
from weightloom.telemetry import configure

__all__ = ["main"]


def main() -> None:
    """Serve until told to stop. What keeps it from starting is told in one line, with exit code 1."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    settings = Settings(**json.loads(sys.stdin.buffer.readline()))
    configure(settings)
    try:
        run(settings, listener, _tell_ready, lifeline=sys.stdin.fileno())
    except (WeightloomError, OSError) as error:
        sys.exit(f"error: {error}")


def _tell_ready() -> None:
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads on


if __name__ == "__main__":
    main()
