"""The ways to a fabric: REST, gRPC, or none at all (in this process). One seam, ``base.Transport``, in front of all."""

from __future__ import annotations

from urllib.parse import urlsplit

from weightloom_client.transports.base import Models, Reply, Timeouts, Tls, Transport
from weightloom_client.transports.direct import Direct

__all__ = ["Direct", "Models", "Reply", "Timeouts", "Tls", "Transport", "transport_to"]


def transport_to(url: str, timeouts: Timeouts, headers: dict[str, str], tls: Tls, direct: Direct) -> Transport:
    """The transport for a URL: http(s)://… is REST, grpc(s)://host:port is gRPC, which knows no redirects.

    Raises ValueError for another one.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        from weightloom_client.transports.rest import RestTransport

        return RestTransport(url, timeouts, headers, tls, direct)
    if scheme in ("grpc", "grpcs"):
        from weightloom_client.transports.grpc import GrpcTransport

        return GrpcTransport(url, timeouts, headers, tls)
    raise ValueError(f"url: got {url!r}, expected http://, https://, grpc:// or grpcs://host:port")
