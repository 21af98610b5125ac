"""The application that ``serve run`` and ``serve deploy`` find: one deployment, and how much of it Ray may start.

Annotations are no strings in this file: Ray looks at that of ``app`` to make the arguments what they must be.
"""

import os
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import LoggingConfig

from weightloom.ray.replica import Weightloom
from weightloom.ray.requirements import check_environment, check_registry, replica_settings

__all__ = ["Arguments", "app"]

# Ray stays reachable for so long while balancers learn that a replica ends; then what runs has shutdown_seconds.
DEREGISTRATION_SECONDS = float(os.environ.get("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "30"))
SPARE_SECONDS = 5
NO_LIMIT = 1_000_000  # calls in a replica: the engine's own gate says no, with 429 and Retry-After
HEALTH_CHECK_SECONDS, HEALTH_CHECK_TIMEOUT = 5.0, 10.0


class Arguments(BaseModel):
    """What the application takes: ``serve run weightloom.ray:app max_replicas=4``, or ``args`` in a config file."""

    model_config = ConfigDict(extra="forbid")

    min_replicas: int = Field(1, ge=1, description="Replicas that are always there.")
    max_replicas: int = Field(1, ge=1, description="Replicas that Ray may start; more than one needs PostgreSQL.")
    target_ongoing_requests: float = Field(
        8.0, gt=0, description="Calls in progress for each replica that Ray aims at by starting and ending replicas."
    )
    num_cpus: float = Field(1.0, ge=0, description="Processors that Ray sets aside for each replica.")
    num_gpus: float = Field(0.0, ge=0, description="GPUs of each replica, the only ones that it sees.")


def app(args: Arguments) -> Application:
    """The application. Raises ValueError where the environment or the settings do not allow it."""
    check_environment(os.environ)
    settings = replica_settings()
    check_registry(settings, args.max_replicas, 1)
    deployment: Any = serve.deployment(serve.ingress()(Weightloom))
    bound: Application = deployment.options(
        name="Weightloom",
        autoscaling_config=AutoscalingConfig(
            min_replicas=args.min_replicas,
            max_replicas=args.max_replicas,
            target_ongoing_requests=args.target_ongoing_requests,
        ),
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus},
        max_ongoing_requests=NO_LIMIT,
        graceful_shutdown_timeout_s=DEREGISTRATION_SECONDS + settings.shutdown_seconds + SPARE_SECONDS,
        health_check_period_s=HEALTH_CHECK_SECONDS,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT,
        logging_config=LoggingConfig(
            enable_access_log=False
        ),  # the setting access_log has a better one, for both fronts
    ).bind()
    return bound
