"""A table in Parquet: w's in columns ``w`` (a struct or map of lists) or ``w.TENSOR``, or as safetensors bytes."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from weightloom.errors import InvalidInput, InvalidW, MalformedBody, Unavailable, WeightloomError
from weightloom.fabric import DType, safetensors
from weightloom.fabric.dtypes import parse_dtype
from weightloom.materialize.table import Row, Rows, checked_file
from weightloom.requests import SPEC_METADATA, FabricateRequest, RequestOptions, request_from_safetensors

__all__ = ["parquet_rows"]

ROWS_AT_ONCE = 64
COLUMNS = ("file", "model", "dtype", "tensors", "rows", "w", "w_safetensors")
W = "w."


def parquet_rows(source: IO[bytes], default_model: str | None) -> Rows:
    """See ``open_table``."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        message = f"Parquet needs pyarrow: pip install 'weightloom[materialize]' ({error})"
        raise Unavailable(message, code="missing_extra") from error
    try:
        table = parquet.ParquetFile(source)
        names = table.schema_arrow.names
    except (ArrowException, OSError, UnicodeDecodeError) as error:  # pyarrow calls a damaged footer an OSError
        raise MalformedBody(f"the table is no Parquet file: {error}") from error
    if unknown := [name for name in names if name not in COLUMNS and not name.startswith(W)]:
        raise InvalidInput.at("TABLE", f"a column {unknown[0]!r}", "only " + ", ".join(COLUMNS) + " and w.TENSOR")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InvalidInput.at("TABLE", f"two columns {twice[0]!r}", "one of each name")
    if "file" not in names:
        raise InvalidInput.at("TABLE", "no column 'file'", "each file's place under the target")
    return Rows(table.metadata.num_rows, _rows(table, default_model))


def _rows(table: Any, default_model: str | None) -> Iterator[Row | tuple[int, str, WeightloomError]]:
    for number, cells in enumerate(_cells(table), 1):
        file = ""
        try:
            file = checked_file(cells["file"].as_py())
            yield _row(number, file, cells, default_model)
        except WeightloomError as error:
            yield number, file, error
        except UnicodeDecodeError as error:  # Parquet says that a text is UTF-8, and checks nothing
            yield number, file, InvalidInput.at("row", repr(error.object), "text in UTF-8")


def _cells(table: Any) -> Iterator[dict[str, Any]]:
    """The cells of each row by column. Raises MalformedBody where the file is damaged."""
    from pyarrow import ArrowException

    try:
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            for place in range(batch.num_rows):
                yield {name: column[place] for name, column in columns.items()}
    except (ArrowException, OSError) as error:
        raise MalformedBody(f"the table cannot be read on: {error}") from error


def _row(number: int, file: str, cells: Mapping[str, Any], default_model: str | None) -> Row:
    options = _options(cells, default_model)
    body = cells["w_safetensors"].as_py() if "w_safetensors" in cells else None
    if body is None:
        request = FabricateRequest(options.model, _w(cells), options.dtype, options.tensors, options.rows)
    elif isinstance(body, bytes):
        if SPEC_METADATA.encode() in safetensors.header_of(body) and _model(cells) == "":
            options = replace(options, model="")
        request = request_from_safetensors(body, options)
    else:
        raise InvalidW.at("w_safetensors", type(body).__name__, "bytes of a safetensors file", code="w_wrong_type")
    if request.model == "":
        raise InvalidInput.at("model", "nothing", "a model's name or digest; or one --model for all rows")
    model = request.model if isinstance(request.model, str) else None
    return Row(number, file, request, model, sum(w.nbytes for w in request.w.values()))


def _model(cells: Mapping[str, Any]) -> str:
    """The model that a row names, "" where it names none."""
    model = cells["model"].as_py() if "model" in cells else None
    if not isinstance(model, str | None):
        raise InvalidInput.at("model", repr(model), "a model's name or digest")
    return model or ""


def _options(cells: Mapping[str, Any], default_model: str | None) -> RequestOptions:
    dtype, tensors, rows = (cells[name].as_py() if name in cells else None for name in ("dtype", "tensors", "rows"))
    if not isinstance(tensors, list | None):
        raise InvalidInput.at("tensors", repr(tensors), "a list of tensors' names")
    return RequestOptions(
        _model(cells) or default_model or "", parse_dtype(dtype or DType.F32), tensors, _rows_of(rows), 0, None
    )


def _rows_of(value: Any) -> dict[str, tuple[int, int]]:
    """A struct or a map of [a, b] by tensor."""
    try:
        ends = {name: part for name, part in dict(value or {}).items() if part is not None}
        return {name: (operator.index(first), operator.index(last)) for name, (first, last) in ends.items()}
    except (TypeError, ValueError) as error:
        raise InvalidInput.at("rows", repr(value), "by tensor [a, b]: a struct or map of two integers each") from error


def _w(cells: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """The w's of a row, from all of its columns; what is null is not there."""
    cell = cells.get("w")
    found = {} if cell is None or not cell.is_valid else _entries(cell)
    found |= {name.removeprefix(W): cell for name, cell in cells.items() if name.startswith(W)}
    return {name: _array(name, cell) for name, cell in found.items() if cell.is_valid}


def _entries(cell: Any) -> dict[str, Any]:
    from pyarrow import types

    if types.is_struct(cell.type):
        return dict(cell.items())
    if types.is_map(cell.type):
        names, values = cell.values.field(0).to_pylist(), cell.values.field(1)
        return {name: values[place] for place, name in enumerate(names)}
    raise InvalidW.at("w", str(cell.type), "a struct or map of lists by tensor", code="w_wrong_type")


def _array(name: str, cell: Any) -> npt.NDArray[Any]:
    """A list of numbers, (l,), or a list of such lists, (B, l); null among them is NaN, which no w may hold."""
    from pyarrow import types

    item = getattr(cell.type, "value_type", None)
    try:
        if item is not None and (types.is_floating(item) or types.is_integer(item)):
            array: npt.NDArray[Any] = cell.values.to_numpy(zero_copy_only=False)
        else:
            array = np.array(cell.as_py())
    except ValueError as error:  # lists of different lengths
        raise InvalidW.at(f"w[{name!r}]", "lists of different lengths", "B lists of l numbers each") from error
    if array.dtype.kind not in "fiu":
        expected = "a list of numbers, or a list of such lists"
        raise InvalidW.at(f"w[{name!r}]", f"a cell of type {cell.type}", expected, code="w_wrong_type")
    return array if array.dtype.kind == "f" else array.astype(np.float64)
