"""Ray where nobody can reach it: it listens on all interfaces, so it gets a network namespace with loopback only."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.ray_serve import NAMESPACE, short_folder

__all__ = ["alone", "why_not"]

ENTER = [*NAMESPACE, "bash", "-c", 'ip link set lo up && exec "$@"', "alone"]
SECONDS = 500  # a busy machine takes long to start Ray


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
    """Run a command to its end in a namespace of its own, with Ray's files in a folder of its own."""
    with short_folder() as files:
        variables = {**environment, "RAY_TMPDIR": str(files)}
        return subprocess.run(
            [*ENTER, *command],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
