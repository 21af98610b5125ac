"""Which GPUs can be used, and what is missing where they can not: torch is imported only where a driver is."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from importlib.util import find_spec

from weightloom.errors import Unavailable

__all__ = ["driver_has_gpus", "find_gpus"]

log = logging.getLogger(__name__)

NO_DEVICE = 100  # of the driver's errors
INSTALL = "pip install 'weightloom[server,cuda]'"


def find_gpus(name: str) -> list[str]:
    """torch's names of the GPUs for the device ``name`` ("auto", "cuda", "cuda:N"); empty for the CPU alone.

    With TRITON_INTERPRET=1 "cuda:0" is a GPU that Triton plays on the processor, for tests.
    Raises Unavailable, with what is missing, where there is a GPU, or one is asked for, and it cannot be used.
    """
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if name == "auto" and (is_interpreted or not driver_has_gpus()):
        return []
    problem = _missing() or ("" if is_interpreted else _unusable())
    if not problem:
        gpus = [f"cuda:{index}" for index in range(1 if is_interpreted else _count())]
        if name in {"auto", "cuda", *gpus}:
            return [name] if name in gpus else gpus
        problem = f"there is no such GPU, only {', '.join(gpus)}"
    raise Unavailable(f"device {name} cannot be used: {problem}", code="gpu_unavailable")


def driver_has_gpus() -> bool:
    """Whether NVIDIA's driver is here and sees a GPU. It is asked itself: importing torch takes seconds."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count, status = ctypes.c_int(0), driver.cuInit(0)
    if status not in {0, NO_DEVICE}:
        log.warning("NVIDIA's driver is here, but says error %d, so no GPU is used", status)
    return status == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def _missing() -> str:
    missing = [package for package in ("torch", "triton") if find_spec(package) is None]
    return f"{' and '.join(missing)} not installed ({INSTALL})" if missing else ""


def _unusable() -> str:
    import torch

    if torch.cuda.is_available():
        return ""
    return f"torch {torch.__version__} has no CUDA, or finds no GPU that its CUDA can use ({INSTALL})"


def _count() -> int:
    import torch

    return torch.cuda.device_count()
