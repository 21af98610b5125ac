"""The access log: one line for each call of either front, when it ends."""

from __future__ import annotations

import logging

from weightloom.engine import Call
from weightloom.errors import shorten

__all__ = ["log_call"]

LINE = "%s %s %s model=%r key=%s bytes=%d seconds=%.4f queue=%.4f compute=%.4f send=%.4f"

log = logging.getLogger("weightloom.access")


def log_call(call: Call) -> None:
    """Log it; in JSON lines its facts are fields, too."""
    facts = {
        "front": call.front,
        "call": call.name,
        "code": call.code,
        "model": shorten(call.model),
        "key": call.key,
        "bytes": call.sent_bytes,
        "seconds": call.seconds,
        "queue": call.queue,
        "compute": call.compute,
        "send": call.send,
    }
    log.info(LINE, *facts.values(), extra=facts)
