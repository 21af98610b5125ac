"""What has been made of a table: an SQLite file beside the target, with an entry for each file.

A file is entered once it lies under its name, so a run that is killed at any moment leaves nothing to repair: what has
no entry is made again, and found there already where it was finished after all. An entry is doubted for as long as its
file may be written over. Files are not synced one by one, which takes longer than to make them; every few seconds their
whole file system is, and entries from before are *sure* then. Those that were not sure when the machine stopped are
looked at again. The file is locked as long as it is open.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from weightloom.errors import InvalidInput, Unavailable
from weightloom.materialize.batches import Batch, Known, Outcome

__all__ = ["Journal"]

SYNC_SECONDS = 10.0
UNSURE = -1
VERSION = 1  # of the schema
BOOT = Path("/proc/sys/kernel/random/boot_id")
SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    file TEXT PRIMARY KEY, run INTEGER NOT NULL, row INTEGER NOT NULL,
    etag TEXT, size INTEGER, sha256 TEXT, sync INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""
CLAIM = """
INSERT INTO files (file, run, row) VALUES (?1, ?2, ?3)
ON CONFLICT (file) DO UPDATE SET run = ?2, row = ?3 WHERE run < ?2
RETURNING etag, size, sha256, sync
"""


class Journal:
    """Open it with ``open_for`` and close it."""

    def __init__(self, path: Path, target: str) -> None:
        self._path = path
        self._db = sqlite3.connect(path, timeout=0)
        try:
            self._prepare(target)
        except BaseException:
            self._db.close()
            raise
        self._syncing: threading.Thread | None = None
        self._sync_error: OSError | None = None
        self._synced = time.monotonic()

    @classmethod
    def open_for(cls, folder: Path, target: str) -> Journal:
        """The journal of ``target`` in ``folder``, made where it is missing.

        Raises Unavailable where another run has it open, or it cannot be used, InvalidInput where it is another's, or
        of a newer version.
        """
        path = folder / "journal.sqlite3"
        with _told(path):
            folder.mkdir(parents=True, exist_ok=True)
            return cls(path, target)

    def _prepare(self, target: str) -> None:
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            expected = f"{VERSION}: a newer weightloom has made it; go on with that one, or remove the file"
            raise InvalidInput.at(str(self._path), f"version {version}", expected)
        self._db.executescript(f"BEGIN EXCLUSIVE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        if (belongs_to := self._get("target", target)) != target:
            raise InvalidInput.at("state", f"that of {belongs_to}", f"that of {target}, or an empty folder")
        boot, durable = _boot_id(), int(self._get("synced", "0"))
        if not boot or boot != self._get("boot", boot):  # what was not synced may be lost, whatever is entered
            self._db.execute("UPDATE files SET sync = ? WHERE sync > ?", (UNSURE, durable))
        self._run, self._sync = int(self._get("run", "0")) + 1, durable + 1
        for key, value in (("target", target), ("boot", boot), ("run", str(self._run))):
            self._set(key, value)
        self._db.commit()

    def claim(self, file: str, row: int) -> Known | None:
        """What earlier runs have made under this name. Raises InvalidInput where this run has a row for it already."""
        with _told(self._path):
            found = self._db.execute(CLAIM, (file, self._run, row)).fetchone()
        if found is None:
            (other,) = self._db.execute("SELECT row FROM files WHERE file = ?", (file,)).fetchone()
            raise InvalidInput.at("file", f"{file!r}, as row {other} has it", "another one for each row")
        etag, size, sha256, sync = found
        return None if etag is None else Known(etag, size, sha256, sync != UNSURE)

    def begin(self, batch: Batch) -> None:
        """Its items may be written over from now on: doubt those that are known until they are recorded again.

        Else a row that is changed, made, not recorded since the run is killed, and changed back would be thought to be
        there. The doubt is on disk first, since a power cut could leave the new file and take it away. Raises
        Unavailable.
        """
        known = [(UNSURE, item.file) for item in batch.items if item.known is not None]
        if not known:
            return
        with _told(self._path):
            self._db.commit()
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executemany("UPDATE files SET sync = ? WHERE file = ?", known)
            self._db.commit()
            self._db.execute("PRAGMA synchronous = NORMAL")

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Enter what is there now, and sync from time to time. Raises Unavailable."""
        made = [(o.etag, o.size, o.sha256, self._sync, o.file) for o in outcomes if o.state != "failed"]
        with _told(self._path):
            self._db.executemany("UPDATE files SET etag = ?, size = ?, sha256 = ?, sync = ? WHERE file = ?", made)
            self._db.commit()
            self._sync_at_times()

    def close(self) -> None:
        """Sync, and let go of it. Raises Unavailable."""
        try:
            with _told(self._path):
                self._db.commit()
                if self._syncing is not None:
                    self._syncing.join()
                self._begin_sync()
                self._end_sync()
        finally:
            self._db.close()

    def _sync_at_times(self) -> None:
        if self._syncing is not None and not self._syncing.is_alive():
            self._end_sync()
        if self._syncing is None and time.monotonic() - self._synced >= SYNC_SECONDS:
            self._begin_sync()

    def _begin_sync(self) -> None:
        """What is recorded from now on belongs to the next sync."""
        self._sync += 1
        self._syncing = threading.Thread(target=self._sync_folder)
        self._syncing.start()

    def _sync_folder(self) -> None:
        try:
            _sync(self._path.parent)
        except OSError as error:
            self._sync_error = error

    def _end_sync(self) -> None:
        assert self._syncing is not None
        self._syncing.join()
        if self._sync_error is not None:
            raise self._sync_error
        self._set("synced", str(self._sync - 1))
        self._db.commit()
        self._syncing, self._synced = None, time.monotonic()

    def _get(self, key: str, default: str) -> str:
        found = self._db.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
        return found[0] if found else default

    def _set(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (key, value))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What SQLite and the system say, as our errors."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if "locked" in str(error):
            raise Unavailable(f"another run has this target: {path} is locked", code="target_in_use") from error
        is_damaged = type(error) is sqlite3.DatabaseError
        hint = "; without this file every row is made once more, and compared with what is there" if is_damaged else ""
        raise Unavailable(f"{path}: {error}{hint}", code="target_unavailable") from error


def _boot_id() -> str:
    """Another one after each start of the system; "" where it is not told."""
    with suppress(OSError):
        return BOOT.read_text().strip()
    return ""


def _sync(folder: Path) -> None:
    """Have the file system of ``folder`` on disk; all file systems, where it cannot be had alone."""
    if sys.platform == "linux":
        handle = os.open(folder, os.O_RDONLY)
        try:
            if ctypes.CDLL(None).syncfs(handle) == 0:
                return
        finally:
            os.close(handle)
    getattr(os, "sync", lambda: None)()  # Windows has none
