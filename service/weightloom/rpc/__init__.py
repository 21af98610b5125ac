"""The gRPC front: the contract of proto/weightloom_proto/v1/fabrication.proto over the engine."""

from weightloom.rpc.server import RpcFront

__all__ = ["RpcFront"]
