"""Containers of the manifests as processes: the environment, the files and the arguments that Kubernetes would give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from tests.support.kubernetes import Manifest, Workload, connections

# By name of a Secret or a ConfigMap: what each of its keys says.
Values = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Pods:
    """Volumes are folders below `folder`; what is mounted at a path is found there instead."""

    folder: Path
    secrets: Values
    config_maps: Values

    def environment(self, workload: Workload, container: Manifest) -> dict[str, str]:
        """The variables of a container, with the places of its files."""
        places = self._mounted(workload, container)
        return {one["name"]: self._moved(self.value(one), places) for one in container.get("env", ())}

    def arguments(self, workload: Workload, container: Manifest) -> list[str]:
        """What the image's command is given."""
        environment, places = self.environment(workload, container), self._mounted(workload, container)
        filled = (re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], one) for one in container["args"])
        return [self._moved(one, places) for one in filled]

    def place(self, workload: Workload, container: Manifest, path: str) -> Path:
        """Where a mounted folder is."""
        return Path(self._mounted(workload, container)[path])

    def value(self, variable: Manifest) -> str:
        """What a variable says."""
        if "value" in variable:
            return str(variable["value"])
        if secret := variable["valueFrom"].get("secretKeyRef"):
            return self.secrets[secret["name"]][secret["key"]]
        reference = variable["valueFrom"]["configMapKeyRef"]
        return self.config_maps[reference["name"]][reference["key"]]

    def _mounted(self, workload: Workload, container: Manifest) -> dict[str, str]:
        volumes = {volume["name"]: volume for volume in workload.pod["volumes"]}
        return {
            str(mount["mountPath"]): str(self.volume(workload.name, volumes[mount["name"]]))
            for mount in container["volumeMounts"]
        }

    def volume(self, owner: str, volume: Manifest) -> Path:
        """The folder of a pod's volume."""
        place = self.folder / owner / str(volume["name"])
        if not place.exists():
            _lay_out(place, self._files(volume))
        return place

    def _files(self, volume: Manifest) -> Mapping[str, str]:
        if "secret" in volume:
            return self.secrets[volume["secret"]["secretName"]]
        if "configMap" in volume:
            return self.config_maps[volume["configMap"]["name"]]
        sources = [source["secret"] for source in volume.get("projected", {}).get("sources", ())]
        return {item["path"]: self.secrets[one["name"]][item["key"]] for one in sources for item in one["items"]}

    @staticmethod
    def _moved(text: str, places: Mapping[str, str]) -> str:
        for path, place in places.items():
            if text == path or text.startswith(f"{path}/"):
                return place + text.removeprefix(path)
        return text


def _lay_out(place: Path, files: Mapping[str, str]) -> None:
    """As a kubelet does it: files are links into a folder that is a link itself, so that all change at once."""
    version = place / "..2026_01_01"
    version.mkdir(parents=True)
    (place / "..data").symlink_to(version.name)
    for name, text in files.items():
        (version / name).write_text(text)
        (place / name).symlink_to(Path("..data") / name)


def example_values(
    prefix: str, amqp_url: str, management_url: str, database_url: str, secret: str
) -> tuple[Values, Values]:
    """Secrets, and the ConfigMap `connections`, of this broker and this database; users' names begin with `prefix`."""
    moved = {
        "amqp": amqp_url.rpartition("@")[2],
        "postgresql": database_url.rpartition("@")[2],
    }
    urls: dict[str, str] = {}
    for key, url in connections().items():
        scheme, _, rest = url.partition("://")
        urls[key] = f"{scheme}://{prefix}{rest.partition('@')[0]}@{moved[scheme]}"
    secrets: dict[str, dict[str, str]] = {key: {"password": f"{secret}\n"} for key in urls}
    secrets["database-owner"] = {"url": database_url}
    secrets["broker-admin"] = {"url": amqp_url, "management": _without_password(management_url)}
    return secrets, {"connections": urls}


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.username}@{parts.netloc.rpartition('@')[2]}"))
