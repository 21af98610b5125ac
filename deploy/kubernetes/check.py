"""Checks the manifests by schema, strictly: ``python deploy/kubernetes/check.py``; ``--write`` renders them anew first.

What is rendered from the overlays is kept in tests/kubernetes/rendered, so that it can be checked without kubectl,
which few machines have (Debian's is too old). Each file there begins with a digest of the sources, which tells where
they have changed since; where there is a kubectl, the files are also compared with what it renders. Not even that
proves that a cluster takes them: there was none to ask.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

__all__ = ["OVERLAYS", "ROOT", "documents", "has_kustomize", "problem_of", "problems", "rendered_file", "sources"]

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "deploy/kubernetes"
OVERLAYS = {
    "cpu": HERE / "overlays/cpu",
    "gpu": HERE / "overlays/gpu",
    "everything": ROOT / "tests/kubernetes/everything",
}
NO_MANIFESTS = ("prometheus.yaml", "prometheus-adapter.yaml")  # other programs' files, which tests/kubernetes looks at
VERSIONS = (
    "1.31",
    "1.37",
)  # of Kubernetes: the oldest that all fields are in without a feature gate, and the newest known
ROUTES = "gateway.networking.k8s.io/v1"  # not Kubernetes' own: its schema here has what we use of it


def sources() -> list[Path]:
    """Every file that something is rendered from."""
    folders = (HERE, OVERLAYS["everything"])
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in {".yaml", ".env"})


def rendered_file(overlay: str) -> Path:
    """Where an overlay's documents are kept."""
    return ROOT / f"tests/kubernetes/rendered/{overlay}.yaml"


def documents(path: Path) -> list[dict[str, Any]]:
    """All documents in a file."""
    return list(yaml.safe_load_all(path.read_text()))


def problem_of(document: dict[str, Any]) -> str | None:
    """Why a document does not follow its schema, or None. A field that its schema does not know is a problem, too."""
    try:
        if document["apiVersion"] == ROUTES:
            schema = json.loads((HERE / "routes.schema.json").read_text())
            jsonschema.Draft202012Validator(schema).validate(document)
        else:
            for version in VERSIONS:
                kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError as error:
        return str(error.message)
    except jsonschema.ValidationError as error:
        return f"{error.json_path}: {error.message}"
    return None


def problems() -> Iterator[str]:
    """Everything that is wrong, one line each."""
    whole = [path for path in sources() if path.suffix == ".yaml" and _is_whole(path)]
    for path in whole + [rendered_file(overlay) for overlay in OVERLAYS]:
        for number, document in enumerate(documents(path), 1):
            if problem := problem_of(document):
                yield f"{path.relative_to(ROOT)}, document {number} ({document['kind']}): {problem}"
    for overlay in OVERLAYS:
        yield from _drift(overlay)


def _is_whole(path: Path) -> bool:
    """Whether a file has whole documents of Kubernetes'; patches and kustomizations show in what is rendered."""
    return path.name not in ("kustomization.yaml", *NO_MANIFESTS) and not path.stem.endswith("-patch")


def _drift(overlay: str) -> Iterator[str]:
    kept = rendered_file(overlay).read_text()
    if not kept.startswith(_heading()):
        yield f"{overlay}: its sources have changed since it was rendered: make manifests (needs kubectl, kustomize 5)"
    elif has_kustomize() and documents(rendered_file(overlay)) != list(yaml.safe_load_all(_render(overlay))):
        yield f"{overlay}: kubectl renders something else: make manifests"


def has_kustomize() -> bool:
    """Whether there is a kubectl with a kustomize that knows all that we use; Debian's own does not."""
    if not shutil.which("kubectl"):
        return False
    command = ["kubectl", "version", "--client", "--output=json"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    major = re.search(r'"kustomizeVersion": "v(\d+)', told)  # which the older ones do not tell
    return major is not None and int(major[1]) >= 5


def _heading() -> str:
    digest = hashlib.sha256()
    for path in sources():
        digest.update(f"{path.relative_to(ROOT)}\0{path.read_text()}\0".encode())
    return f"# By make manifests, from sources whose SHA-256 is {digest.hexdigest()}\n"


def _render(overlay: str) -> str:
    command = ["kubectl", "kustomize", str(OVERLAYS[overlay])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{overlay}: {done.stderr.strip()}")
    return _heading() + done.stdout


def main(arguments: list[str]) -> None:
    """Exit with status 1 and a line for each problem, if there are any."""
    if arguments == ["--write"]:
        for overlay in OVERLAYS:
            rendered_file(overlay).parent.mkdir(exist_ok=True)
            rendered_file(overlay).write_text(_render(overlay))
    if found := list(problems()):
        raise SystemExit("\n".join(found))
    seen = "rendered anew by kubectl, too" if has_kustomize() else "not rendered anew: there is no recent kubectl"
    sys.stdout.write(f"Kubernetes {' and '.join(VERSIONS)} would take the manifests, by their schemas ({seen})\n")


if __name__ == "__main__":
    main(sys.argv[1:])
