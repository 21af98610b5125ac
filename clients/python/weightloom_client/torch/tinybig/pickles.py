"""Pickles of tinyBIG objects, read without tinyBIG and without running what is in them.

A pickle is a program that may call whatever it names. Here it may call a few functions that make tensors and
containers; classes of tinyBIG, torch.nn and numpy become inert: their attributes are there, their code is not.
"""

from __future__ import annotations

import io
import pickle
import re
import sys
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from weightloom.errors import InvalidInput, WeightloomError

from weightloom_client.torch.tinybig.globals import named

__all__ = ["read_pickle"]

ZIP = b"PK\x03\x04"


def read_pickle(source: bytes | Path) -> Any:
    """What pickle.dump or torch.save made of a tinyBIG object, tensors on the CPU; no code of the pickle runs.

    Objects of tinyBIG's classes are ones of classes of the same names that only hold attributes. Raises InvalidInput
    where it is no whole pickle, or names something else than such classes and tensors; OSError.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        zipped = file.read(len(ZIP)) == ZIP
        file.seek(0)
        try:
            return _of_torch_save(file) if zipped else _Unpickler(file).load()
        except (WeightloomError, OSError):
            raise
        except Exception as error:  # bytes that are no pickle make the unpickler fail in every way there is
            expected = "a whole pickle of a tinyBIG object, by pickle.dump or torch.save"
            raise InvalidInput.at("source", f"{type(error).__name__}: {error}", expected) from error


def _of_torch_save(file: IO[bytes]) -> Any:
    """torch.save's archive: data.pkl, and each storage's bytes in a file of its own."""
    with zipfile.ZipFile(file) as archive:
        program = next((name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)), None)
        if program is None:
            raise pickle.UnpicklingError("an archive without the data.pkl of torch.save")
        folder = program.removesuffix("data.pkl")
        order = archive.read(f"{folder}byteorder").decode() if f"{folder}byteorder" in archive.namelist() else "little"
        if order != sys.byteorder:
            raise InvalidInput.at("source", f"numbers in {order}-endian order", f"this machine's, {sys.byteorder}")
        return _Unpickler(io.BytesIO(archive.read(program)), archive, folder).load()


class _Unpickler(pickle.Unpickler):
    """archive, folder: torch.save's, where storages lie beside the pickle."""

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile | None = None, folder: str = "") -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder
        self._storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What may be named. Raises InvalidInput for everything else, and has not imported it."""
        return named(module, name)

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """The storage that torch.save put beside the pickle, as a flat tensor."""
        _, dtype, key, _, _ = pid
        if self._archive is None:
            raise pickle.UnpicklingError("a storage that is not in the pickle")
        if key not in self._storages:
            entry = self._archive.getinfo(f"{self._folder}data/{key}")
            data = np.frombuffer(bytearray(self._archive.read(entry)), np.uint8)
            self._storages[key] = torch.from_numpy(data).view(dtype)
        return self._storages[key]
