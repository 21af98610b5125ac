"""Every setting of the server: a field here, an environment variable WEIGHTLOOM_<NAME>, an option of ``serve``.

docs/settings.md is generated from this file.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from weightloom.engine.factors import Residency
from weightloom.engine.keys import Auth
from weightloom.engine.limits import EngineLimits, available_cores
from weightloom.fabric.device import Device
from weightloom.fabric.layout import TILE
from weightloom.ports import is_loopback

__all__ = ["Settings"]


# Limits of the whole server, of which each worker process gets its part.
SHARED = ("max_streams", "max_queued", "max_bytes_in_flight", "factor_bytes", "small_factor_bytes")


class Settings(BaseSettings):
    """The server's settings; each says what it bounds and in which unit."""

    # An empty variable is one that was left out, to the command line as well: WEIGHTLOOM_TLS_CERT= in a file of them.
    model_config = SettingsConfigDict(env_prefix="WEIGHTLOOM_", env_ignore_empty=True, extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the REST front; 0 takes any free one.")
    grpc_port: int = Field(50051, ge=0, le=65535, description="Port of the gRPC front; 0 takes any free one.")
    grpc_ping_seconds: int = Field(
        30,
        ge=1,
        le=86400,
        description="A gRPC peer that is silent for so long is pinged, and dropped if it is silent for as long again.",
    )
    grpc_streams: int = Field(
        1024, ge=1, le=1 << 20, description="Calls that may run at the same time over one gRPC connection; more wait."
    )
    insecure_no_auth: bool | None = Field(
        None,
        description="Whether calls need no API key. The default is yes on an address of this machine alone while no "
        "key was made, and no on others, where the server does not start without a key.",
    )
    tls_cert: Path | None = Field(
        None, description="PEM file of the server's certificate, with its chain: both fronts then speak TLS alone."
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key, without a password.")
    grpc_client_ca: Path | None = Field(
        None,
        description="PEM file of certificates: gRPC clients must then show one that these have signed (mutual TLS).",
    )
    direct_url: str | None = Field(
        None,
        pattern=r"^https?://[^/?#@\s]+/?$",
        json_schema_extra={"default_text": "no redirects"},
        description="This server's own address as clients reach it past the balancer, such as `http://10.0.0.7:8000`: "
        "large files asked for at any other address are redirected there.",
    )
    direct_bytes: int = Field(
        8 << 20,
        ge=1,
        description="From how many bytes on a reply is redirected to `direct_url`, those of the request taken off.",
    )
    data_dir: Path = Field(
        Path("data"), description="Folder of the registry and of imported factors, made where it is missing."
    )
    registry_url: str | None = Field(
        None,
        pattern=r"^postgres(ql)?://",
        repr=False,
        json_schema_extra={"default_text": "SQLite in `data_dir`"},
        description="PostgreSQL database of the registry, for several servers: "
        "`postgresql://user:password@host/database`; needs the extra `postgres`. Others can see the options of a "
        "process, so better the environment variable, for the password.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda|cuda:\d+)$",
        description="Where W is made: cpu, cuda (all GPUs), cuda:N, or auto for the GPUs where there are any and the "
        "extra `cuda` is installed. All give the same bits.",
    )
    backend: Literal["auto", "numba", "numpy"] = Field(
        "auto",
        description="The processor's arithmetic; auto takes numba where it is installed. All give the same bits.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Processes that share the port; if several, one more watches over them (POSIX only).",
    )
    threads: int = Field(
        default_factory=available_cores,
        ge=1,
        le=1024,
        description="Tile workers of each process; the default is shared out among `workers`, 1 at least for each.",
    )
    tile_bytes: int | None = Field(
        None,
        ge=1 << 12,
        le=1 << 26,
        description="Output of one tile, the unit of work, in bytes; the default is 1 MiB, and 4 MiB with GPUs.",
    )
    tile_window: int = Field(
        4, ge=1, le=64, description="Tiles in flight per stream; tile_bytes × tile_window bounds a stream's memory."
    )
    max_request_bytes: int = Field(64 << 20, ge=1, description="Largest request body, in bytes.")
    max_json_bytes: int = Field(
        16 << 20,
        ge=1,
        description="Largest JSON body (POST /fabricate, a new model), in bytes; longer w's go faster as safetensors.",
    )
    max_factors_bytes: int = Field(
        4 << 30, ge=1, description="Largest upload of imported factors, in bytes; it goes to disk as it comes."
    )
    max_header_bytes: int = Field(
        1 << 16, ge=1024, description="Longest line and headers of a REST request together, in bytes; over it 431."
    )
    header_seconds: float = Field(
        30.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="How long a REST request's line and headers may take to come, counted from the beginning of the "
        "connection, or from their first byte on one that was idle; then 408.",
    )
    keep_alive_seconds: int = Field(
        5,
        ge=1,
        le=86400,
        description="How long a REST connection may be idle behind a reply. Behind a proxy that keeps connections: "
        "longer than it does, so that none is closed just when it is used again.",
    )
    cors_origins: str = Field(
        "",
        pattern=r"^(\*|https?://[^/,\s?#@*A-Z]+(,https?://[^/,\s?#@*A-Z]+)*)?$",
        json_schema_extra={"default_text": "none"},
        description="Origins whose web pages may call the REST front (CORS): `https://a.example,https://b.example`, or "
        "`*` for all. API keys are asked for as ever.",
    )
    max_output_bytes: int = Field(1 << 40, ge=1, description="Most bytes that one response may send.")
    max_streams: int = Field(
        256, ge=1, description="Streams that may run at the same time; small replies do not count."
    )
    max_queued: int = Field(
        1024, ge=0, description="Requests that may wait for a running stream to end; over it 429 with Retry-After."
    )
    max_bytes_in_flight: int | None = Field(
        None,
        ge=1,
        description="Bytes that request bodies and the windows of streams may hold in all; over it 429. The default is "
        "1 GiB, and 4 GiB with GPUs.",
    )
    max_queue_seconds: float = Field(
        30.0, gt=0, le=86400, allow_inf_nan=False, description="How long a request may wait for its turn; then 504."
    )
    stall_seconds: float = Field(
        60.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="A reader that does not take the next tile within so long is dropped, and a request of whose body "
        "nothing comes for so long, or less than 1 KiB a second beyond that.",
    )
    residency: Residency = Field(
        Residency.AUTO,
        description="What becomes of T where a model does not say: virtual (drawn each time), resident (kept), or auto "
        "(kept from its second request on, while there is room).",
    )
    factor_bytes: int = Field(1 << 30, ge=0, description="Memory for resident T's; the least recently used goes first.")
    gpu_factor_bytes: int | None = Field(
        None,
        ge=0,
        description="Memory of each GPU for resident T's, in bytes; the default is half of what is free at the start.",
    )
    gpu_fallback: bool = Field(
        False,
        description="Whether the processor goes on where a GPU is lost; otherwise the server is no longer ready.",
    )
    small_factor_bytes: int = Field(64 << 20, ge=0, description="Memory for P's, Q's and S's, kept in any case.")
    max_page: int = Field(1000, ge=1, description="Most models in one page of a list.")
    drain_seconds: int = Field(
        0,
        ge=0,
        description="How long new requests are still taken after SIGTERM, so that balancers notice first; part of "
        "`shutdown_seconds`.",
    )
    shutdown_seconds: int = Field(30, ge=0, description="How long running streams may go on after SIGTERM.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level of log lines.")
    log_format: Literal["console", "json"] = Field(
        "console", description="Log lines for people, or JSON: one object in each line."
    )
    access_log: bool = Field(False, description="One log line (at level info) for each call of either front.")
    tracing: bool = Field(
        False,
        description="A span for each call, by OTLP over gRPC; needs the extra `otel`; obeys the `OTEL_…` variables.",
    )

    @field_validator("direct_url")
    @classmethod
    def _direct_url_names_a_server(cls, url: str | None) -> str | None:
        """Clients are sent there, and are not to be the first to notice. Raises ValueError."""
        with suppress(ValueError):  # of half a bracket, and of a port that is no number from 0 to 65535
            parts = urlsplit(url or "http://host")
            if parts.hostname and parts.port != 0:
                return url
        raise ValueError("expected http(s)://HOST or http(s)://HOST:PORT, an IPv6 address in brackets")

    @model_validator(mode="after")
    def _each_front_has_a_port(self) -> Self:
        if self.port == self.grpc_port != 0:
            raise ValueError(f"another grpc_port than port ({self.port}): each front has its own")
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key, both or neither")
        if self.grpc_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_cert and tls_key beside grpc_client_ca")
        if self.tls_cert is not None and (self.direct_url or "https://").startswith("http://"):
            raise ValueError("a direct_url that begins with https:// beside tls_cert")
        return self

    @property
    def auth(self) -> Auth:
        """Whether API keys are asked for."""
        if self.insecure_no_auth is None:
            return Auth.IF_ANY if is_loopback(self.host) else Auth.ON
        return Auth.OFF if self.insecure_no_auth else Auth.ON

    def engine_limits(self, device: Device) -> EngineLimits:
        """The part of the settings that the engine obeys; what they leave open is the device's."""
        return EngineLimits(
            threads=self.threads,
            tile=device.tile if self.tile_bytes is None else device.tile._replace(bytes=self.tile_bytes),
            tile_window=self.tile_window,
            max_output_bytes=self.max_output_bytes,
            max_streams=self.max_streams,
            max_queued=self.max_queued,
            max_bytes_in_flight=self.max_bytes_in_flight or self._room_for_tiles(device),
            max_queue_seconds=self.max_queue_seconds,
            stall_seconds=self.stall_seconds,
            residency=self.residency,
            auth=self.auth,
            factor_bytes=self.factor_bytes,
            small_factor_bytes=self.small_factor_bytes,
        )

    def _room_for_tiles(self, device: Device) -> int:
        """For as many streams on any device: a worker's part of what the server may hold in flight."""
        return EngineLimits.max_bytes_in_flight * device.tile.bytes // TILE.bytes // self.workers

    def for_worker(self) -> Self:
        """The same settings for one of ``workers`` processes, with its share of what is meant for the whole server."""
        values: dict[str, int | None] = {name: getattr(self, name) for name in SHARED}
        share = {name: -(-value // self.workers) for name, value in values.items() if value is not None}
        if "threads" not in self.model_fields_set:
            share["threads"] = max(1, self.threads // self.workers)
        return self.model_copy(update=share)
