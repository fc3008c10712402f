"""The manifests as kustomize makes them of an overlay, and what refers to what in them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.kubernetes.objects import Object

DEPLOY: Final = Path(__file__).parents[2] / "deploy"

MANIFESTS: Final = DEPLOY / "kubernetes"

OVERLAYS: Final = ("single-node", "cluster")

# In a process of its own: its runtime would share the signals of this one.
_BUILD: Final = """
import asyncio, sys
from pykustomize import build
print(asyncio.run(build(sys.argv[1])).yaml)
"""


def render(overlay: str, folder: Path) -> list[Object]:
    """What `kubectl apply -k` would apply of an overlay, with fresh secrets, made in `folder`."""
    for each in ("kubernetes", "broker"):
        shutil.copytree(DEPLOY / each, folder / each, ignore=shutil.ignore_patterns("secrets.env", "access"))
    path = folder / "kubernetes" / "overlays" / overlay
    make_secrets(path)
    built = subprocess.run([*_kustomize(), path], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return [each for each in yaml.safe_load_all(built.stdout) if each is not None]


def make_secrets(overlay: Path) -> str:
    """Have the secrets of an overlay made. Returns what is said of it."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # of the command `nrp`
    done = subprocess.run(
        [MANIFESTS / "make-secrets", overlay], env={"PATH": path}, check=True, capture_output=True, text=True
    )
    return done.stdout


def _kustomize() -> list[str]:
    if find_spec("pykustomize") is not None:
        return [sys.executable, "-c", _BUILD]
    if (program := shutil.which("kustomize")) is not None:
        return [program, "build"]
    pytest.skip("there is no kustomize: neither the package pykustomize nor a program on the PATH")


class Manifests:
    """What is applied."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    def of(self, *kinds: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] in kinds]

    def named(self, kind: str, name: str) -> Object:
        (found,) = [each for each in self.of(kind) if each["metadata"]["name"] == name]
        return found

    def generated(self, kind: str, name: str) -> Object:
        """One whose name ends with a hash of what is in it."""
        (found,) = [each for each in self.of(kind) if re.fullmatch(f"{name}-[a-z0-9]{{10}}", each["metadata"]["name"])]
        return found

    @property
    def names(self) -> set[tuple[str, str]]:
        return {(each["kind"], each["metadata"]["name"]) for each in self.objects}

    def files(self, kind: str, name: str) -> dict[str, bytes]:
        """What is in a secret or a configuration whose name ends with a hash."""
        data = self.generated(kind, name)["data"]
        return {key: b64decode(each) if kind == "Secret" else each.encode() for key, each in data.items()}

    @property
    def simulation_job(self) -> Object:
        """The template that the launcher makes Jobs of."""
        job = yaml.safe_load(self.generated("ConfigMap", "nrp-simulation-job")["data"]["simulation-job.yaml"])
        assert isinstance(job, dict)
        return job

    @property
    def pods(self) -> dict[str, Object]:
        """The templates of all Pods, by what makes them; that of simulations among them."""
        found = {each["metadata"]["name"]: each["spec"]["template"] for each in self.of("Deployment", "StatefulSet")}
        return {**found, "simulation": self.simulation_job["spec"]["template"]}

    def containers(self) -> Iterator[tuple[str, Object]]:
        for name, pod in self.pods.items():
            for each in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
                yield f"{name}/{each['name']}", each

    def environment(self, workload: str) -> dict[str, str]:
        """The variables of a workload's only container, secrets in place."""
        (container,) = self.pods[workload]["spec"]["containers"]
        found: dict[str, str] = {}
        for each in container.get("envFrom", []):
            (data,) = [
                it["data"] for it in self.of("ConfigMap") if it["metadata"]["name"] == each["configMapRef"]["name"]
            ]
            found |= data
        for each in container.get("env", []):
            if "value" in each:
                found[each["name"]] = each["value"]
            elif "secretKeyRef" in each["valueFrom"]:
                found[each["name"]] = f"<{each['valueFrom']['secretKeyRef']['key']}>"
            else:
                found[each["name"]] = f"{workload}-0"
        for name, value in found.items():
            for other, text in found.items():
                value = value.replace(f"$({other})", text)
            found[name] = value
        return found


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector, in the long or the short form, takes something."""
    wanted = selector.get("matchLabels", {}) if {"matchLabels", "matchExpressions"} & selector.keys() else selector
    expressions = selector.get("matchExpressions", [])
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )


NAMED_IN: Final = {
    "configMapRef": ("ConfigMap", "name"),
    "configMapKeyRef": ("ConfigMap", "name"),
    "configMap": ("ConfigMap", "name"),
    "secretRef": ("Secret", "name"),
    "secretKeyRef": ("Secret", "name"),
    "secret": ("Secret", "secretName"),
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
    "service": ("Service", "name"),
    "roleRef": ("Role", "name"),
}
"""Which fields refer to what, and where in them its name is."""

NAMES: Final = {"serviceAccountName": "ServiceAccount", "serviceName": "Service"}
"""Which fields are names of what."""


def references(value: Any) -> Iterator[tuple[str, str]]:
    """What a part of a manifest refers to, by kind and name."""
    if isinstance(value, list):
        for each in value:
            yield from references(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key in NAMES:
                yield NAMES[key], each
            elif key in NAMED_IN and isinstance(each, dict):
                kind, name = NAMED_IN[key]
                yield kind, each[name]
            else:
                yield from references(each)


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
