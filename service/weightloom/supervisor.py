"""``--workers N``: a process that serves nothing itself but keeps N others alive, which share its listening socket."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress

from prometheus_client import multiprocess

from weightloom.settings import Settings

__all__ = ["READY", "delay_after", "supervise"]

log = logging.getLogger(__name__)
READY = b"ready\n"
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
STABLE_SECONDS = 30  # a worker that lived so long did not die of how it starts
LONGEST_DELAY_SECONDS = 30
SPARE_SECONDS = 5  # beyond shutdown_seconds, before a worker that does not end is killed


def supervise(settings: Settings, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Keep ``settings.workers`` processes serving until SIGTERM or SIGINT; exit with 1 where the first cannot start."""
    with tempfile.TemporaryDirectory(prefix="weightloom-metrics-") as folder:
        exit_code = asyncio.run(_Supervisor(settings, listener, folder, on_ready).run())
    if exit_code:
        sys.exit(exit_code)


def delay_after(lived: float, delay: int) -> int:
    """Seconds to wait after the end of a worker that lived so long, and had been waited for ``delay`` seconds."""
    return 0 if lived > STABLE_SECONDS else min(LONGEST_DELAY_SECONDS, 2 * delay or 1)


class _Supervisor:
    """A task for each worker starts it again and again. Only when the first worker serves do the others begin."""

    def __init__(
        self, settings: Settings, listener: socket.socket, metrics_folder: str, on_ready: Callable[[], None]
    ) -> None:
        self._settings, self._listener, self._metrics_folder = settings, listener, metrics_folder
        self._on_ready = on_ready
        self._workers: set[_Worker] = set()
        self._serves, self._exit_code = False, 0
        self._stopping = asyncio.Event()
        self._keepers = asyncio.TaskGroup()

    async def run(self) -> int:
        """Until the last worker has ended: the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)
        async with self._keepers:
            self._keepers.create_task(self._keep())
        return self._exit_code

    async def _keep(self) -> None:
        loop, delay = asyncio.get_running_loop(), 0
        while not self._stopping.is_set():
            began = loop.time()
            cause = await self._run_worker()
            if self._stopping.is_set():
                return
            if not self._serves:
                self._exit_code = 1
                if "exit code" not in cause:  # or it has told why itself
                    log.error("%s before it served", cause)
                return
            delay = delay_after(loop.time() - began, delay)
            log.error("%s; another one takes its place in %d s", cause, delay)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _run_worker(self) -> str:
        """From a worker's start to its end: how it ended."""
        try:
            worker = await _Worker.start(self._settings, self._listener, self._metrics_folder)
        except OSError as error:
            return f"a worker could not be started: {error}"
        self._workers.add(worker)
        if self._stopping.is_set():
            worker.stop()
        if await worker.ready():
            self._on_worker_ready()
        cause = await worker.ended()
        self._workers.remove(worker)
        multiprocess.mark_process_dead(worker.pid, self._metrics_folder)  # type: ignore[no-untyped-call]
        return cause

    def _on_worker_ready(self) -> None:
        if self._serves or self._stopping.is_set():
            return
        self._serves = True
        for _ in range(1, self._settings.workers):
            self._keepers.create_task(self._keep())
        self._on_ready()

    def _on_signal(self, number: int) -> None:
        if self._stopping.is_set():
            self._exit_code = 128 + number
            self._kill()
            return
        if not self._serves:
            self._exit_code = 128 + number  # as one process ends that has not served yet
        log.info("stopping %d workers", len(self._workers))
        self._stopping.set()
        self._listener.close()  # from now on it is open for as long as a worker has it open
        for worker in self._workers:
            worker.stop()
        grace = self._settings.shutdown_seconds + SPARE_SECONDS
        asyncio.get_running_loop().call_later(grace, self._kill)

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()


class _Worker:
    """One process of ``weightloom.worker``: see there for what goes through its pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process, self._serves = process, False
        self.pid = process.pid

    @classmethod
    async def start(cls, settings: Settings, listener: socket.socket, metrics_folder: str) -> _Worker:
        """A process with the same way to find modules, in a session of its own: Ctrl-C reaches the supervisor alone."""
        path = os.pathsep.join(filter(None, sys.path))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "weightloom.worker", str(listener.fileno())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": path, METRICS_FOLDER: metrics_folder},
        )
        assert process.stdin is not None
        process.stdin.write(settings.for_worker().model_dump_json().encode() + b"\n")
        return cls(process)

    async def ready(self) -> bool:
        """Wait until it serves: True; or until it has ended."""
        assert self._process.stdout is not None
        self._serves = await self._process.stdout.readline() == READY
        return self._serves

    async def ended(self) -> str:
        """Wait for its end: how it came, in a few words."""
        code = await self._process.wait()
        if code >= 0:
            return f"worker {self.pid} ended with exit code {code}"
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"worker {self.pid} was ended by {signal.Signals(-code).name}{hint}"

    def stop(self) -> None:
        """Let it finish its streams, or end it where it has none yet."""
        assert self._process.stdin is not None
        if self._serves:
            self._process.stdin.close()
        else:
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            self._process.send_signal(number)
