"""Ray where nobody can reach it: it listens on all interfaces, so it gets a network namespace with loopback only."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["alone", "why_not"]

ENTER = ["unshare", "--net", "bash", "-c", 'ip link set lo up && exec "$@"', "alone"]


def why_not() -> str:
    """Why Ray cannot be run like this here, "" where it can."""
    try:
        import ray  # noqa: F401
    except ImportError:
        return "Ray is not installed"
    if not (shutil.which("unshare") and shutil.which("ip")):
        return "there is no unshare or no ip"
    tried = subprocess.run([*ENTER, "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else f"no network namespace: {tried.stderr.decode().strip()}"


def alone(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a namespace of its own; its processes must end with it."""
    return subprocess.run(
        [*ENTER, *command], cwd=folder, env=dict(environment), capture_output=True, text=True, check=False, timeout=240
    )
