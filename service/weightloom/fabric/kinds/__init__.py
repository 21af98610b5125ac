"""The kinds of fabrication. A new kind is one file here and one line in ``TensorSpec``."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from weightloom.fabric.kinds.base import BaseTensorSpec
from weightloom.fabric.kinds.constant import Constant
from weightloom.fabric.kinds.identity import Identity
from weightloom.fabric.kinds.imported_hypernet import ImportedHypernet
from weightloom.fabric.kinds.random_matrix_hypernet import RandomMatrixHypernet

__all__ = [
    "KIND_NAMES",
    "BaseTensorSpec",
    "Constant",
    "Identity",
    "ImportedHypernet",
    "RandomMatrixHypernet",
    "TensorSpec",
]

KIND_NAMES = ("random_matrix_hypernet", "identity", "constant", "imported_hypernet")


def _kind_of(value: Any) -> str:
    """The kind that a document (or a spec) names; the mission's own where it names none."""
    kind = value.get("kind", KIND_NAMES[0]) if isinstance(value, dict) else getattr(value, "kind", KIND_NAMES[0])
    return str(kind)


TensorSpec = Annotated[
    Annotated[RandomMatrixHypernet, Tag("random_matrix_hypernet")]
    | Annotated[Identity, Tag("identity")]
    | Annotated[Constant, Tag("constant")]
    | Annotated[ImportedHypernet, Tag("imported_hypernet")],
    Discriminator(
        _kind_of,
        custom_error_type="unknown_kind",
        custom_error_message="Input should have a kind that is one of " + ", ".join(KIND_NAMES),
    ),
]
