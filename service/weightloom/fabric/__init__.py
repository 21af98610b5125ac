"""The fabric: factor streams, kinds of fabrication, and virtual safetensors files.

It knows neither web nor torch nor SQL.
"""

from weightloom.fabric.backend import Backend, load_backend
from weightloom.fabric.dtypes import DType
from weightloom.fabric.spec import ModelSpec
from weightloom.fabric.virtual_file import VirtualFile

__all__ = ["Backend", "DType", "ModelSpec", "VirtualFile", "load_backend"]
