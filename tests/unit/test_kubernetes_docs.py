"""docs/kubernetes.md: every Secret that the manifests name is there, with who reads it, and the commands make them."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess

import pytest
import yaml

from tests.support import kubernetes as k8s
from tests.support.kubernetes import PLACE, ROOT
from xml_pipeline.terminal.passwords import read_passwords

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
ROW = re.compile(r"^\| `([a-z-]+)` \| ([^|]+) \| ([^|]+) \|", re.MULTILINE)
# Their keys are named by the organism; they may be missing.
ANY = {"llm-keys", "webhook-secret"}


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def used() -> dict[str, tuple[set[str], set[str]]]:
    """By Secret: its keys, and who reads it."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for name, workload in k8s.workloads().items():
        for secret, keys in workload.secrets().items():
            known = found.setdefault(secret, (set(), set()))
            known[0].update(keys)
            known[1].add(name)
    for authentication in k8s.manifests("TriggerAuthentication"):
        for target in authentication["spec"]["secretTargetRef"]:
            found[target["name"]] = ({target["key"]}, {"KEDA"})
    return found


def test_every_secret_is_told_of_with_its_keys_and_readers() -> None:
    told = {
        name: (set() if keys == "any" else set(re.findall(r"`(\w+)`", keys)), set(readers.split(", ")))
        for name, keys, readers in ROW.findall(section("Secrets"))
    }
    assert told == used()
    optional = {
        source["secretRef"]["name"]
        for workload in k8s.workloads().values()
        for container in workload.containers
        for source in container.get("envFrom", ())
        if source["secretRef"]["optional"]
    }
    assert optional == ANY


def test_every_config_map_is_told_of() -> None:
    maps = set().union(*(workload.config_maps() for workload in k8s.workloads().values()))
    assert maps == {one["name"] for one in k8s.kustomizations()[PLACE / "base"]["configMapGenerator"]}
    for name in maps:
        assert f"ConfigMap `{name}`" in PAGE


def test_every_folder_is_told_of() -> None:
    told = set(
        re.findall(r"`([a-z/-]+)`", "".join(re.findall(r"^\| (`[^|]+) \|", PAGE.partition("\n## ")[0], re.MULTILINE)))
    )
    folders = {str(file.parent.relative_to(PLACE)) for file in PLACE.rglob("*") if file.is_file()}
    tops = {folder.partition("/")[0] for folder in folders} - {"keda"}
    assert told == {*tops, "keda/prometheus", "keda/postgresql"}


def test_the_management_plugins_password_is_that_of_the_url() -> None:
    """What is in `management` is an argument of commands, which the list of processes shows."""
    [address] = re.findall(r"management=<\(printf %s \"(.*)\"\)$", section("Secrets"), re.MULTILINE)
    said = f'admin=administrator:secret; printf %s "{address}"'
    done = subprocess.run(["/bin/sh", "-euc", said], capture_output=True, text=True, check=True)
    assert done.stdout == "http://administrator@organism-rabbitmq:15672"


KUBECTL, BASH, OPENSSL = shutil.which("kubectl"), shutil.which("bash"), shutil.which("openssl")


@pytest.mark.skipif(not (KUBECTL and BASH and OPENSSL), reason="kubectl, bash or openssl is not installed")
def test_the_commands_make_the_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    [commands] = re.findall(r"^```bash\n(.*?)^```$", section("Secrets"), re.MULTILINE | re.DOTALL)
    dry = 'kubectl() { command kubectl "$@" --dry-run=client --output yaml; echo ---; }\n'
    given = "owner=postgresql://organism:secret@organism-postgres-rw:5432/organism admin=administrator:secret\n"
    done = subprocess.run([str(BASH), "-euc", dry + given + commands], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    made = {one["metadata"]["name"]: one["data"] for one in yaml.safe_load_all(done.stdout) if one}
    wanted = {name: keys for name, (keys, _) in used().items() if name not in {*ANY, "autoscaler-database"}}
    assert {name: set(data) for name, data in made.items()} == wanted
    for name, data in made.items():
        for value in data.values():
            text = base64.b64decode(value).decode().rstrip("\n")
            assert len(text) > 12
            if name.endswith("-broker"):
                monkeypatch.setenv(f"ORGANISM_{name.replace('-', '_').upper()}_PASSWORD", text)
    services = ("gateway", "router", "usage", "agent-worker")
    assert len(set(read_passwords(services, "broker", None).values())) == len(services)
