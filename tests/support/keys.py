"""``weightloom keys``, as an operator calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.server import SECONDS


def keys(data_dir: Path, *arguments: str) -> str:
    """What the command prints."""
    command = [sys.executable, "-m", "weightloom", "keys", *arguments, "--data-dir", str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def key_for_all(data_dir: Path) -> str:
    """The token of a new key that has both scopes."""
    return keys(data_dir, "create", "operator", "--scope", "admin", "--scope", "fabricate")
