from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[DType]
    DTYPE_F32: _ClassVar[DType]
    DTYPE_F16: _ClassVar[DType]
    DTYPE_BF16: _ClassVar[DType]

class Residency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESIDENCY_UNSPECIFIED: _ClassVar[Residency]
    RESIDENCY_VIRTUAL: _ClassVar[Residency]
    RESIDENCY_RESIDENT: _ClassVar[Residency]
    RESIDENCY_AUTO: _ClassVar[Residency]
DTYPE_UNSPECIFIED: DType
DTYPE_F32: DType
DTYPE_F16: DType
DTYPE_BF16: DType
RESIDENCY_UNSPECIFIED: Residency
RESIDENCY_VIRTUAL: Residency
RESIDENCY_RESIDENT: Residency
RESIDENCY_AUTO: Residency

class FabricateRequest(_message.Message):
    __slots__ = ("model", "spec", "w", "w_safetensors", "dtype", "tensors", "rows", "offset", "length", "if_match")
    class WEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Vector
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Vector, _Mapping]] = ...) -> None: ...
    class RowsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Rows
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Rows, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    W_FIELD_NUMBER: _ClassVar[int]
    W_SAFETENSORS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    model: str
    spec: ModelSpec
    w: _containers.MessageMap[str, Vector]
    w_safetensors: bytes
    dtype: DType
    tensors: _containers.RepeatedScalarFieldContainer[str]
    rows: _containers.MessageMap[str, Rows]
    offset: int
    length: int
    if_match: str
    def __init__(self, model: _Optional[str] = ..., spec: _Optional[_Union[ModelSpec, _Mapping]] = ..., w: _Optional[_Mapping[str, Vector]] = ..., w_safetensors: _Optional[bytes] = ..., dtype: _Optional[_Union[DType, str]] = ..., tensors: _Optional[_Iterable[str]] = ..., rows: _Optional[_Mapping[str, Rows]] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., if_match: _Optional[str] = ...) -> None: ...

class Vector(_message.Message):
    __slots__ = ("values", "batch")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    batch: int
    def __init__(self, values: _Optional[_Iterable[float]] = ..., batch: _Optional[int] = ...) -> None: ...

class Rows(_message.Message):
    __slots__ = ("first", "last")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ...) -> None: ...

class FabricateChunk(_message.Message):
    __slots__ = ("data", "total_size", "etag", "model_digest")
    DATA_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    total_size: int
    etag: str
    model_digest: str
    def __init__(self, data: _Optional[bytes] = ..., total_size: _Optional[int] = ..., etag: _Optional[str] = ..., model_digest: _Optional[str] = ...) -> None: ...

class ModelSpec(_message.Message):
    __slots__ = ("name", "seed", "tensors")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    name: str
    seed: int
    tensors: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    def __init__(self, name: _Optional[str] = ..., seed: _Optional[int] = ..., tensors: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("name", "shape", "random_matrix_hypernet", "identity", "constant", "imported_hypernet")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    RANDOM_MATRIX_HYPERNET_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    CONSTANT_FIELD_NUMBER: _ClassVar[int]
    IMPORTED_HYPERNET_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    random_matrix_hypernet: RandomMatrixHypernet
    identity: Identity
    constant: Constant
    imported_hypernet: ImportedHypernet
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., random_matrix_hypernet: _Optional[_Union[RandomMatrixHypernet, _Mapping]] = ..., identity: _Optional[_Union[Identity, _Mapping]] = ..., constant: _Optional[_Union[Constant, _Mapping]] = ..., imported_hypernet: _Optional[_Union[ImportedHypernet, _Mapping]] = ...) -> None: ...

class RandomMatrixHypernet(_message.Message):
    __slots__ = ("l", "r", "hidden_dim", "scale")
    L_FIELD_NUMBER: _ClassVar[int]
    R_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_DIM_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    l: int
    r: int
    hidden_dim: int
    scale: float
    def __init__(self, l: _Optional[int] = ..., r: _Optional[int] = ..., hidden_dim: _Optional[int] = ..., scale: _Optional[float] = ...) -> None: ...

class ImportedHypernet(_message.Message):
    __slots__ = ("l", "r", "hidden_dim", "scale", "factors_sha256")
    L_FIELD_NUMBER: _ClassVar[int]
    R_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_DIM_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    FACTORS_SHA256_FIELD_NUMBER: _ClassVar[int]
    l: int
    r: int
    hidden_dim: int
    scale: float
    factors_sha256: str
    def __init__(self, l: _Optional[int] = ..., r: _Optional[int] = ..., hidden_dim: _Optional[int] = ..., scale: _Optional[float] = ..., factors_sha256: _Optional[str] = ...) -> None: ...

class Identity(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Constant(_message.Message):
    __slots__ = ("value",)
    VALUE_FIELD_NUMBER: _ClassVar[int]
    value: str
    def __init__(self, value: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("spec", "digest", "generator", "created_at", "description", "numel", "w_numbers", "residency", "resident_bytes", "t_bytes")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    NUMEL_FIELD_NUMBER: _ClassVar[int]
    W_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    RESIDENCY_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    T_BYTES_FIELD_NUMBER: _ClassVar[int]
    spec: ModelSpec
    digest: str
    generator: str
    created_at: str
    description: str
    numel: str
    w_numbers: str
    residency: Residency
    resident_bytes: int
    t_bytes: str
    def __init__(self, spec: _Optional[_Union[ModelSpec, _Mapping]] = ..., digest: _Optional[str] = ..., generator: _Optional[str] = ..., created_at: _Optional[str] = ..., description: _Optional[str] = ..., numel: _Optional[str] = ..., w_numbers: _Optional[str] = ..., residency: _Optional[_Union[Residency, str]] = ..., resident_bytes: _Optional[int] = ..., t_bytes: _Optional[str] = ...) -> None: ...

class ModelSummary(_message.Message):
    __slots__ = ("name", "digest", "tensors", "numel", "w_numbers", "created_at")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    NUMEL_FIELD_NUMBER: _ClassVar[int]
    W_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    tensors: int
    numel: str
    w_numbers: str
    created_at: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., tensors: _Optional[int] = ..., numel: _Optional[str] = ..., w_numbers: _Optional[str] = ..., created_at: _Optional[str] = ...) -> None: ...

class CreateModelRequest(_message.Message):
    __slots__ = ("spec",)
    SPEC_FIELD_NUMBER: _ClassVar[int]
    spec: ModelSpec
    def __init__(self, spec: _Optional[_Union[ModelSpec, _Mapping]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("after", "limit")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    after: str
    limit: int
    def __init__(self, after: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelSummary]
    next: str
    def __init__(self, models: _Optional[_Iterable[_Union[ModelSummary, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class DeleteModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class SetResidencyRequest(_message.Message):
    __slots__ = ("name", "residency")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESIDENCY_FIELD_NUMBER: _ClassVar[int]
    name: str
    residency: Residency
    def __init__(self, name: _Optional[str] = ..., residency: _Optional[_Union[Residency, str]] = ...) -> None: ...

class FactorsChunk(_message.Message):
    __slots__ = ("sha256", "data")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    data: bytes
    def __init__(self, sha256: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class GetFactorsRequest(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    def __init__(self, sha256: _Optional[str] = ...) -> None: ...

class Factors(_message.Message):
    __slots__ = ("sha256", "size")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size: int
    def __init__(self, sha256: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...
