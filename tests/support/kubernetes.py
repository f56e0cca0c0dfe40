"""The manifests of deploy/kubernetes, read for tests: what is there, and what it refers to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "deploy" / "kubernetes"
SERVICES = ("gateway", "router", "usage", "agent-worker")
KUSTOMIZATION = "kustomization.yaml"

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment or a Job."""

    manifest: Manifest

    @property
    def name(self) -> str:
        """Its own."""
        return str(self.manifest["metadata"]["name"])

    @property
    def pod(self) -> Manifest:
        """What its pods are made from."""
        return dict(self.manifest["spec"]["template"]["spec"])

    @property
    def labels(self) -> dict[str, str]:
        """Of its pods."""
        return dict(self.manifest["spec"]["template"]["metadata"]["labels"])

    @property
    def containers(self) -> list[Manifest]:
        """All, those that run first among them."""
        return [*self.pod.get("initContainers", ()), *self.pod["containers"]]

    @property
    def environment(self) -> dict[str, Manifest]:
        """The variables of all containers, by name."""
        return {one["name"]: one for container in self.containers for one in container.get("env", ())}

    def secrets(self) -> dict[str, set[str]]:
        """The Secrets that it is given: which keys of each; none where it gets all of them."""
        found: dict[str, set[str]] = {}
        for name, keys in self._secrets():
            found.setdefault(name, set()).update(keys)
        return found

    def config_maps(self) -> dict[str, set[str]]:
        """The same for ConfigMaps."""
        found: dict[str, set[str]] = {}
        for variable in self.environment.values():
            if reference := variable.get("valueFrom", {}).get("configMapKeyRef"):
                found.setdefault(reference["name"], set()).add(reference["key"])
        for volume in self.pod["volumes"]:
            if "configMap" in volume:
                found.setdefault(volume["configMap"]["name"], set())
        return found

    def _secrets(self) -> Iterator[tuple[str, set[str]]]:
        for variable in self.environment.values():
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                yield reference["name"], {reference["key"]}
        for container in self.containers:
            for source in container.get("envFrom", ()):
                yield source["secretRef"]["name"], set()
        for volume in self.pod["volumes"]:
            if "secret" in volume:
                # It is mounted whole: the password's file is what the variables name.
                yield volume["secret"]["secretName"], {self._file_in(volume["name"])}
            for source in volume.get("projected", {}).get("sources", ()):
                yield source["secret"]["name"], {item["key"] for item in source["secret"]["items"]}

    def _file_in(self, volume: str) -> str:
        [mount] = [one for one in self.pod["containers"][0]["volumeMounts"] if one["name"] == volume]
        [file] = [
            one["value"] for one in self.environment.values() if one.get("value", "").startswith(mount["mountPath"])
        ]
        return str(Path(file).relative_to(mount["mountPath"]))


def read(file: Path) -> list[Manifest]:
    """All documents of a file."""
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def manifest_files() -> list[Path]:
    """Every file with something for a cluster: not what kustomize alone reads."""
    patches = {PLACE / "organism-in-image" / "without-volume.yaml", PLACE / "base" / "organism" / "organism.yaml"}
    return [file for file in sorted(PLACE.rglob("*.yaml")) if file.name != KUSTOMIZATION and file not in patches]


def manifests(kind: str | None = None) -> list[Manifest]:
    """All of them, or those of one kind."""
    found = [document for file in manifest_files() for document in read(file)]
    return [one for one in found if kind in (None, one["kind"])]


def deployments() -> dict[str, Workload]:
    """The services."""
    return {one["metadata"]["name"]: Workload(one) for one in manifests("Deployment")}


def jobs() -> dict[str, Workload]:
    """What runs once."""
    return {one["metadata"]["name"]: Workload(one) for one in manifests("Job")}


def workloads() -> dict[str, Workload]:
    """All that has pods."""
    return deployments() | jobs()


def kustomizations() -> Mapping[Path, Manifest]:
    """By folder."""
    return {file.parent: read(file)[0] for file in sorted(PLACE.rglob(KUSTOMIZATION))}


def connections() -> dict[str, str]:
    """Where broker and database are, by key of the ConfigMap."""
    lines = (PLACE / "base" / "connections.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
