"""Run in the image's build: compiles the kernels, and the bytecode of whatever a server imports."""

from __future__ import annotations

import weightloom.health  # noqa: F401  # its bytecode
import weightloom.main  # noqa: F401
from weightloom.engine.known_answer import check_known_answer
from weightloom.fabric import load_backend
from weightloom.fabric.device import Cpu
from weightloom.fabric.streams import FactorStream

backend = load_backend("numba")
check_known_answer(Cpu(backend))
backend.normals(FactorStream(0, 0), 0, 1)
