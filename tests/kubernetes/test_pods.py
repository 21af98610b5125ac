"""What the manifests say of pods, against the image and the settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.manifests import ROOT, SERVERS, deployment, one, pods, probes, settings
from weightloom import __version__
from weightloom.settings import Settings

DOCKERFILE = (ROOT / "Dockerfile").read_text()
FIELDS = Settings.model_fields


@pytest.mark.parametrize("overlay", SERVERS)
def test_all_that_is_set_are_settings_and_the_server_takes_them(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    named = [variable["name"] for pod in pods(overlay) for variable in pod["containers"][0].get("env", [])]
    ours = [name for name in named if name != "POD_IP"]
    assert {name.removeprefix("WEIGHTLOOM_").lower() for name in [*ours, *settings(overlay)]} <= FIELDS.keys()
    for name, value in settings(overlay).items():
        monkeypatch.setenv(name, value)
    assert Settings().shutdown_seconds == int(settings(overlay)["WEIGHTLOOM_SHUTDOWN_SECONDS"])


@pytest.mark.parametrize("overlay", SERVERS)
def test_a_pod_is_given_longer_to_stop_than_its_streams_are(overlay: str) -> None:
    drain, shutdown = (int(settings(overlay)[f"WEIGHTLOOM_{name}_SECONDS"]) for name in ("DRAIN", "SHUTDOWN"))
    grace = deployment(overlay)["template"]["spec"]["terminationGracePeriodSeconds"]
    assert 5 <= drain < shutdown <= grace - 15


@pytest.mark.parametrize("overlay", SERVERS)
def test_pods_run_as_the_images_user_and_may_do_nothing_more(overlay: str) -> None:
    (user,) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    for pod in pods(overlay):
        context, (container,) = pod["securityContext"], pod["containers"]
        assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user
        assert context["runAsNonRoot"]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        guarded = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert container["securityContext"] == guarded
        assert not pod["automountServiceAccountToken"]
        assert not pod["enableServiceLinks"], "the Service's name would set WEIGHTLOOM_PORT"
        assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


@pytest.mark.parametrize("overlay", SERVERS)
def test_what_the_image_writes_to_is_a_volume(overlay: str) -> None:
    (container,) = deployment(overlay)["template"]["spec"]["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    names = ["HOME", "WEIGHTLOOM_DATA_DIR"] + ["TRITON_CACHE_DIR"] * (overlay == "gpu")
    written = [re.findall(rf"{name}=(\S+)", DOCKERFILE)[0] for name in names]
    assert all(any(Path(path).is_relative_to(mount) for mount in mounted) for path in written)


def in_bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(|Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) << {"": 0, "Mi": 20, "Gi": 30}[unit]


@pytest.mark.parametrize(("overlay", "in_flight"), [("cpu", 1 << 30), ("gpu", 4 << 30)])
def test_memory_and_disk_are_enough_for_what_the_settings_keep(overlay: str, in_flight: int) -> None:
    pod = deployment(overlay)["template"]["spec"]
    limits = pod["containers"][0]["resources"]["limits"]
    kept = FIELDS["factor_bytes"].default + FIELDS["small_factor_bytes"].default + in_flight
    assert in_bytes(limits["memory"]) >= kept + (1 << 30)
    sizes = [in_bytes(volume["emptyDir"]["sizeLimit"]) for volume in pod["volumes"]]
    assert sum(sizes) <= in_bytes(limits["ephemeral-storage"])


def test_only_a_shared_folder_takes_imported_factors() -> None:
    assert settings("cpu")["WEIGHTLOOM_MAX_FACTORS_BYTES"] == "1"
    assert int(settings("everything")["WEIGHTLOOM_MAX_FACTORS_BYTES"]) == FIELDS["max_factors_bytes"].default
    volumes = {v["name"]: v for v in deployment("everything")["template"]["spec"]["volumes"]}
    claim = one("everything", "PersistentVolumeClaim", volumes["data"]["persistentVolumeClaim"]["claimName"])
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_a_pods_own_address_is_known_before_it_is_used_and_has_the_servers_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (container,) = deployment("everything")["template"]["spec"]["containers"]
    (value,) = [variable["value"] for variable in container["env"] if variable["name"] == "WEIGHTLOOM_DIRECT_URL"]
    names = [variable["name"] for variable in container["env"]]
    assert names.index("POD_IP") < names.index("WEIGHTLOOM_DIRECT_URL")
    monkeypatch.setenv("WEIGHTLOOM_DIRECT_URL", value.replace("$(POD_IP)", "10.0.0.7"))
    assert Settings().direct_url == f"http://10.0.0.7:{FIELDS['port'].default}"


def test_images_are_of_this_version() -> None:
    images = {pod["containers"][0]["image"] for overlay in ("cpu", "gpu") for pod in pods(overlay)}
    assert images == {f"weightloom:{__version__}", f"weightloom:{__version__}-cuda"}


@pytest.mark.parametrize("overlay", SERVERS)
def test_a_database_that_is_gone_makes_no_pod_unready_and_restarts_none(overlay: str) -> None:
    paths = probes(overlay)
    lives = "/readyz?exclude=registry" if overlay == "gpu" else "/healthz"  # a lost GPU comes back by a restart only
    assert paths == {"startup": "/healthz", "liveness": lives, "readiness": "/readyz?exclude=registry"}
