"""Log records reach stderr by way of a thread, whole, whatever becomes of the process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

START = """
import logging, sys, threading, time
from weightloom.engine import Call
from weightloom.settings import Settings
from weightloom.telemetry import logs
logs.configure(Settings(log_format="json"))
log = logging.getLogger("test")
"""


def run(program: str) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, "-c", START + program], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.splitlines()


def records(program: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(program)[1]]


def test_the_id_is_that_of_the_call_in_which_the_record_was_made() -> None:
    inside, after, thread = records("""
with Call(lambda call: None, "rest", "get_model", "mine"):
    log.info("inside %s", "text")
log.info("after")
threading.Thread(target=log.info, args=("thread",)).start()
""")
    assert (inside["message"], inside["request_id"]) == ("inside text", "mine")
    assert (after["request_id"], thread["request_id"]) == ("-", "-")


def test_extra_fields_and_tracebacks_are_fields() -> None:
    first, second = records("""
log.warning("text", extra={"model": "a/b"})
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broken")
""")
    assert first == {"level": "WARNING", "logger": "test", "message": "text", "model": "a/b"} | {
        name: first[name] for name in ("pid", "request_id", "time")
    }
    assert "ZeroDivisionError" in second["exc_info"]


def test_lines_below_the_level_are_left_out() -> None:
    assert [line["message"] for line in records('log.debug("no"); log.info("yes")')] == ["yes"]


def test_everything_is_written_when_the_process_ends_with_an_error() -> None:
    code, lines = run("""
for number in range(3000):
    log.info("line %d", number)
raise RuntimeError("the end")
""")
    assert code == 1
    *found, last = [json.loads(line) for line in lines]
    assert [line["message"] for line in found] == [f"line {number}" for number in range(3000)]
    assert (last["level"], "RuntimeError: the end" in last["exc_info"]) == ("CRITICAL", True)


def test_a_thread_that_ends_by_an_error_is_logged() -> None:
    (line,) = records('threading.Thread(target=lambda: 1 / 0, name="worker").start()')
    assert line["message"] == "thread worker ended by an error"
    assert "ZeroDivisionError" in line["exc_info"]


STUCK = """
for number in range(30_000):
    log.info("line %d", number)
sys.stdout.write("not held up\\n")
sys.stdout.flush()
sys.stdin.readline()
while logging.getLogger().handlers[0].queue.qsize():
    time.sleep(0.01)
log.info("after")
"""


def test_a_stuck_stderr_costs_lines_and_says_so_but_holds_up_nobody() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", START + STUCK], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"not held up\n"
        _, errors = process.communicate(b"\n")
    messages = [json.loads(line)["message"] for line in errors.splitlines()]
    lost = [int(message.split()[0]) for message in messages if "log lines were lost" in message]
    assert messages[-2] == "after"
    assert sum(message.startswith("line") for message in messages) + sum(lost) == 30_000
    assert sum(lost) > 10_000


def test_warnings_of_libraries_are_records() -> None:
    (warning,) = records('import warnings; warnings.warn("old")')
    assert (warning["logger"], "old" in warning["message"]) == ("py.warnings", True)
