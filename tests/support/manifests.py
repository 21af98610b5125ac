"""Kubernetes' manifests as they are rendered, by overlay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.modules import module_at

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
SERVERS = ["cpu", "gpu", "everything"]


check = module_at(FOLDER / "check.py")
ALL: dict[str, list[dict[str, Any]]] = {
    overlay: check.documents(check.rendered_file(overlay)) for overlay in check.OVERLAYS
}


def one(overlay: str, kind: str, name: str = "weightloom") -> dict[str, Any]:
    """The one document of a kind whose name begins so."""
    (found,) = [d for d in ALL[overlay] if d["kind"] == kind and d["metadata"]["name"].startswith(name)]
    return found


def deployment(overlay: str) -> dict[str, Any]:
    """What the Deployment specifies."""
    found: dict[str, Any] = one(overlay, "Deployment")["spec"]
    return found


def pods(overlay: str) -> list[dict[str, Any]]:
    """What every pod specifies, the servers' first."""
    admin = [d["spec"] for d in ALL[overlay] if d["kind"] == "Pod"]
    return [deployment(overlay)["template"]["spec"], *admin]


def settings(overlay: str) -> dict[str, str]:
    """The environment from the ConfigMap."""
    found: dict[str, str] = one(overlay, "ConfigMap", "weightloom-settings-")["data"]
    return found


def probes(overlay: str) -> dict[str, str]:
    """The path of each probe of a server's pod."""
    (container,) = deployment(overlay)["template"]["spec"]["containers"]
    return {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
