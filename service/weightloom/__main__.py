"""The command ``weightloom``, and ``python -m weightloom``."""

import os
import signal
from typing import Any

__all__ = ["main"]


def main() -> None:
    """Import the command line, which takes a second, and run it; nothing is half done before, so a signal just ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    from weightloom.cli import main as command_line

    command_line()


def _end(number: int, _: Any) -> None:
    os._exit(128 + number)  # an exception would be a traceback out of the middle of an import


if __name__ == "__main__":
    main()
