"""Run in the image's build: a server starts and stops, which compiles the kernels and what it imports."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import weightloom.cli
import weightloom.health  # noqa: F401
from weightloom.fabric import load_backend
from weightloom.fabric.streams import FactorStream
from weightloom.main import run
from weightloom.ports import reserve_port
from weightloom.settings import Settings

load_backend("numba").normals(FactorStream(0, 0), 0, 1)
with tempfile.TemporaryDirectory() as folder:
    settings = Settings(data_dir=Path(folder), device="cpu", grpc_port=0)
    run(settings, reserve_port("127.0.0.1", 0), lambda: os.kill(os.getpid(), signal.SIGTERM))
