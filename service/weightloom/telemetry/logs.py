"""Log lines for people or for machines, with the id of the call; formatted and written by a thread of their own."""

from __future__ import annotations

import atexit
import logging
import queue
import sys
import threading
from logging.handlers import QueueHandler, QueueListener
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from weightloom.engine import current_request_id
from weightloom.settings import Settings

__all__ = ["configure", "flush"]

CONSOLE = "%(asctime)s %(levelname)s %(name)s [%(process)d %(request_id)s] %(message)s"
JSON_FIELDS = ["levelname", "name", "process", "request_id", "message"]
JSON_NAMES = {"levelname": "level", "name": "logger", "process": "pid"}
NOT_SHOWN = [*RESERVED_ATTRS, "taskName", "color_message"]  # the last is uvicorn's message once more, in colours
MAX_WAITING = 10_000  # lines; some 10 MB where nobody reads stderr

log = logging.getLogger(__name__)
_listener: _Listener | None = None


def configure(settings: Settings) -> None:
    """Send all log records of this process to stderr. It starts a thread, so call it after a fork and not before.

    At exit, also after an error, all are written out; call ``flush`` where a process ends by ``os._exit``.
    """
    global _listener  # noqa: PLW0603  (logging is one for the process)
    flush()
    target = logging.StreamHandler()
    target.setFormatter(_json() if settings.log_format == "json" else logging.Formatter(CONSOLE))
    handler = _Handler(queue.Queue(MAX_WAITING))
    handler.addFilter(_note_request_id)
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    logging.captureWarnings(True)
    # Written by the interpreter, tracebacks would run into the lines of the other thread, and not be JSON.
    sys.excepthook = lambda *error: log.critical("the process ends by an error", exc_info=error)
    threading.excepthook = _log_lost_thread
    _listener = _Listener(handler.queue, target)
    _listener.start()


def flush() -> None:
    """Write out what waits, and stop the thread."""
    global _listener
    listener, _listener = _listener, None
    if listener:
        listener.stop()


atexit.register(flush)


def _log_lost_thread(error: threading.ExceptHookArgs) -> None:
    found = error.exc_value or error.exc_type()
    log.error("thread %s ended by an error", error.thread and error.thread.name, exc_info=found)


def _json() -> logging.Formatter:
    return JsonFormatter(JSON_FIELDS, rename_fields=JSON_NAMES, reserved_attrs=NOT_SHOWN, timestamp="time")


def _note_request_id(record: logging.LogRecord) -> bool:
    """Called where the record is made: the writing thread knows of no call."""
    record.request_id = current_request_id()
    return True


class _Handler(QueueHandler):
    """Hands records over as they are; where the queue is full, drops and counts them rather than hold up the caller."""

    queue: queue.Queue[Any]
    _lost = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self._lost += 1
            return
        if self._lost and self.queue.qsize() < MAX_WAITING // 2:  # not one such line after each place that is free
            lost, self._lost = self._lost, 0
            log.warning("%d log lines were lost, since stderr takes them too slowly", lost)


class _Listener(QueueListener):
    queue: queue.Queue[Any]

    def enqueue_sentinel(self) -> None:
        """Wait for a place: a full queue is no reason not to stop."""
        self.queue.put(None)
