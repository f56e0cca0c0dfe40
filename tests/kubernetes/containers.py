"""Containers in Docker with what a kubelet would give them: the manifests' users, rights, mounts, variables, limits."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.kubernetes import Manifest, Workload
from tests.support.pods import Pods

NETWORK = "organism-kubernetes-test"
STEP_SECONDS = 300
_UNITS = {"Mi": "m", "Gi": "g"}


class DockerFailed(Exception):
    """A command of Docker's ended with an error; the message has what it said."""


def docker(*words: str, check: bool = True) -> str:
    """What `docker ...` printed. Raises DockerFailed."""
    command = ["docker", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=STEP_SECONDS, check=False)
    if check and done.returncode != 0:
        raise DockerFailed(f"docker {' '.join(words[:3])}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout.strip()


def last_words(container: str) -> str:
    """The end of its log; services write to standard error."""
    command = ["docker", "logs", "--tail", "20", container]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout


def as_a_pod(pods: Pods, workload: Workload, container: Manifest) -> list[str]:
    """The words of `docker run` up to the image."""
    security = workload.pod["securityContext"]
    user = f"{security['runAsUser']}:{security['runAsGroup']}"
    words = ["--network", NETWORK, "--user", user, "--memory", _memory(container["resources"]["limits"]["memory"])]
    if container["securityContext"]["readOnlyRootFilesystem"]:
        words.append("--read-only")
    if not container["securityContext"]["allowPrivilegeEscalation"]:
        words += ["--security-opt", "no-new-privileges"]
    for capability in container["securityContext"]["capabilities"]["drop"]:
        words += ["--cap-drop", capability]
    for variable in container.get("env", ()):
        words += ["--env", f"{variable['name']}={pods.value(variable)}"]
    return [*words, *_mounts(pods, workload, container)]


def _mounts(pods: Pods, workload: Workload, container: Manifest) -> list[str]:
    volumes = {volume["name"]: volume for volume in workload.pod["volumes"]}
    words: list[str] = []
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        if "emptyDir" in volume:
            words += ["--tmpfs", f"{mount['mountPath']}:size={_memory(volume['emptyDir']['sizeLimit'])}"]
        else:
            place = pods.volume(workload.name, volume)
            _give(place, volume, workload.pod["securityContext"]["fsGroup"])
            words += ["--volume", f"{place}:{mount['mountPath']}:{'ro' if mount.get('readOnly') else 'rw'}"]
    return words


def _give(place: Path, volume: Manifest, group: int) -> None:
    """Files are root's and the group's, with the mode that the volume names."""
    [given] = [volume[kind] for kind in ("secret", "projected", "configMap") if kind in volume]
    for path in (place, *place.rglob("*")):
        os.chown(path, 0, group, follow_symlinks=False)
        if path.is_dir():
            path.chmod(0o750)
        elif not path.is_symlink():
            path.chmod(given.get("defaultMode", 0o644))


def _memory(text: str) -> str:
    return text[:-2] + _UNITS[text[-2:]]
