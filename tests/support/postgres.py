"""A PostgreSQL of the tests' own: a private cluster in a temporary folder, on a free port of this machine."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest
from support.ports import reserved_port
from support.server import children_of, is_running, state_of, wait_until

PASSWORD = "s3cret-w0rd"
NUMBERS = count()
SECONDS = 180  # for a program of PostgreSQL: a busy machine takes long
PATIENTLY = ["--wait", f"--timeout={SECONDS}"]
CONFIG = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
full_page_writes = off
shared_buffers = 16MB
max_connections = 60
"""


class Cluster:
    """A database server on ``port``, which is its own also while it is stopped; ``url`` names a database in it."""

    def __init__(self, folder: Path, bin_folder: Path, port: int) -> None:
        self._folder, self._bin, self._user, self.port = folder, bin_folder, _unprivileged(), port
        self._data = folder / "data"

    def create(self) -> None:
        """Make it, and start it."""
        if self._user:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        password = self._folder / "password"
        password.write_text(PASSWORD)
        options = ["--auth=scram-sha-256", "--username=weightloom", f"--pwfile={password}"]
        self._run("initdb", *options, "--encoding=UTF8", "--locale=C", "--no-sync")
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"{CONFIG}port = {self.port}\n")
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        self._run("pg_ctl", "start", *PATIENTLY, f"--log={self._folder / 'log'}")

    def stop(self, mode: str = "fast") -> None:
        """fast: connections are ended; immediate: as by a crash."""
        self._run("pg_ctl", "stop", *PATIENTLY, f"--mode={mode}")

    def speak_tls(self, certificate: bytes, key: bytes) -> None:
        """Take TLS from now on, and nothing else over TCP."""
        for name, pem in (("server.crt", certificate), ("server.key", key)):
            file = self._data / name
            file.write_bytes(pem)
            file.chmod(0o600)
            if self._user:
                os.chown(file, self._user.pw_uid, self._user.pw_gid)
        with (self._data / "postgresql.conf").open("a") as config:
            config.write("ssl = on\n")
        (self._data / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\n")
        self.stop()
        self.start()

    def kill(self) -> None:
        """kill -9 of every process of it."""
        processes = self.pause()
        self._signal(processes, signal.SIGKILL)
        # It cannot be started again while one of them has its shared memory, or its first one's id is taken.
        wait_until(lambda: not any(map(state_of, processes)))

    def pause(self) -> list[int]:
        """Stop every process of it, so that it is there and does not answer: their ids."""
        parent = self._pid()
        os.kill(parent, signal.SIGSTOP)
        wait_until(lambda: _is_stopped(parent))  # until then it may make more of them
        processes = [parent, *children_of(parent)]
        self._signal(processes, signal.SIGSTOP)
        wait_until(lambda: all(_is_stopped(pid) or not is_running(pid) for pid in processes))
        return processes

    def resume(self) -> None:
        """Let it go on."""
        parent = self._pid()
        self._signal([*children_of(parent), parent], signal.SIGCONT)

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"tests_{next(NUMBERS)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str = "postgres") -> str:
        """The URL of a database."""
        return f"postgresql://weightloom:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement outside of any transaction; its rows, where it gives any."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def dump(self, url: str, file: Path) -> None:
        """A backup of our part of a database."""
        command = [self._bin / "pg_dump", "--format=custom", "--schema=weightloom", f"--file={file}", url]
        subprocess.run(command, check=True, timeout=SECONDS)

    def restore(self, url: str, file: Path) -> None:
        """The backup into a database, in place of what is there."""
        command = [self._bin / "pg_restore", "--single-transaction", "--clean", "--if-exists", f"--dbname={url}", file]
        subprocess.run(command, check=True, timeout=SECONDS)

    @staticmethod
    def _signal(processes: list[int], number: int) -> None:
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def _run(self, program: str, *options: str) -> None:
        command = [str(self._bin / program), f"--pgdata={self._data}", *options]
        user = self._user and self._user.pw_uid
        with (self._folder / "output").open("ab") as output:  # no pipe: a server would keep it open
            subprocess.run(
                command, check=True, stdout=output, stderr=output, user=user, cwd=self._folder, timeout=SECONDS
            )


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster that is removed at the end, however it ended. Skips the test where PostgreSQL is not installed."""
    bin_folder = _bin_folder()
    folder = Path(tempfile.mkdtemp(prefix="weightloom-pg-"))
    with reserved_port() as port:
        cluster = Cluster(folder, bin_folder, port)
        try:
            cluster.create()
            yield cluster
        finally:
            with suppress(OSError, ValueError, subprocess.SubprocessError):  # it may be gone
                cluster.resume()
                cluster.stop("immediate")
            shutil.rmtree(folder, ignore_errors=True)


def _is_stopped(pid: int) -> bool:
    return state_of(pid) == "T"


def _bin_folder() -> Path:
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name)):
        if (folder / "initdb").exists():
            return folder
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    message = "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    if os.environ.get("CI"):
        pytest.fail(f"{message}; CI needs it")
    pytest.skip(message)


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom to run it as: it refuses to be root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise AssertionError("no user other than root is here to run PostgreSQL")
