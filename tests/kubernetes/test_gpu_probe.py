"""The program that tells Kubernetes whether a pod with a GPU is to be restarted, run as it stands in the manifest."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support.manifests import deployment
from weightloom.settings import Settings


@pytest.fixture
def answering() -> Iterator[dict[str, Any]]:
    """What a server at ``port`` answers to everything."""
    reply: dict[str, Any] = {"status": 200, "body": b"{}"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(reply["status"])
            self.end_headers()
            self.wfile.write(reply["body"])

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield reply | {"port": server.server_port, "reply": reply}
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "lives"),
    [
        (200, b'{"status":"ready"}', True),
        (503, b'{"code":"registry_unavailable"}', True),
        (503, b'{"code":"draining"}', True),
        (503, b'{"code":"gpu_lost"}', False),
    ],
)
def test_a_pod_is_restarted_for_a_lost_gpu_and_for_nothing_else_that_readiness_tells(
    answering: dict[str, Any], status: int, body: bytes, lives: bool
) -> None:
    answering["reply"].update(status=status, body=body)
    assert run_gpu_probe(answering["port"]) is lives


def test_a_pod_whose_server_does_not_answer_is_restarted() -> None:
    assert not run_gpu_probe(1)


def run_gpu_probe(port: int) -> bool:
    (container,) = deployment("gpu")["template"]["spec"]["containers"]
    _, option, program = container["livenessProbe"]["exec"]["command"]
    asked = program.replace(f":{Settings.model_fields['port'].default}/", f":{port}/")
    assert asked != program
    return subprocess.run([sys.executable, option, asked], capture_output=True, check=False).returncode == 0
