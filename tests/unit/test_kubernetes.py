"""What the manifests of deploy/kubernetes say, without a cluster: by the schemas, the code and the Dockerfile."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from pydantic import ValidationError

from tests.support import keda
from tests.support import kubernetes as k8s
from tests.support.kubernetes import PLACE, ROOT, SERVICES, Manifest, Workload
from xml_pipeline.organism.load import load_organism
from xml_pipeline.settings import Settings
from xml_pipeline.stopping import AFTER_HANDLERS, HANDLERS, WHOLE
from xml_pipeline.worker.settings import WorkerSettings

# The oldest that knows all that the manifests use, and the newest.
VERSIONS = ("1.30", kubernetes_validate.latest_version())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
FILES = [file.relative_to(PLACE) for file in k8s.manifest_files()]
DEPLOYMENTS, JOBS, WORKLOADS = k8s.deployments(), k8s.jobs(), k8s.workloads()
# Seconds between what a stop may take and what Kubernetes gives it.
MARGIN = 5


def checked(manifest: Manifest, version: str) -> None:
    if manifest["kind"] in keda.KINDS:
        keda.KINDS[manifest["kind"]].model_validate(manifest)
    else:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES, ids=str)
def test_the_schemas_know_every_field(file: Path, version: str) -> None:
    documents = k8s.read(PLACE / file)
    assert documents
    for document in documents:
        checked(document, version)


def test_a_field_that_is_misspelt_is_found() -> None:
    [deployment] = k8s.read(PLACE / "services" / "gateway" / "deployment.yaml")
    deployment["spec"]["template"]["spec"]["containers"][0]["readinessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinessProb"):
        checked(deployment, VERSIONS[0])
    [scaled] = k8s.read(PLACE / "keda" / "prometheus" / "scaledobject.yaml")
    scaled["spec"]["triggers"][0]["metadata"]["treshold"] = "20"
    with pytest.raises(ValidationError, match="treshold"):
        checked(scaled, VERSIONS[0])


# Kustomize


def named() -> Iterator[Path]:
    """Every file that some kustomization names."""
    for folder, kustomization in k8s.kustomizations().items():
        yield folder / k8s.KUSTOMIZATION
        for name in (*kustomization.get("resources", ()), *kustomization.get("components", ())):
            place = (folder / name).resolve()
            yield place if place.is_file() else place / k8s.KUSTOMIZATION
        for generator in kustomization.get("configMapGenerator", ()):
            yield from (folder / name for name in (*generator.get("files", ()), *generator.get("envs", ())))
        yield from (folder / patch["path"] for patch in kustomization.get("patches", ()))


def test_kustomizations_name_all_there_is_and_nothing_else() -> None:
    by_hand = {PLACE / "keda" / "postgresql" / "user.sql", PLACE / "monitoring" / "prometheus.yml"}
    assert {file for file in PLACE.rglob("*") if file.is_file()} == {*named(), *by_hand}


KUBECTL = shutil.which("kubectl")


def built(folder: Path) -> list[Manifest]:
    done = subprocess.run([str(KUBECTL), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")
@pytest.mark.parametrize("folder", ["setup", "commands", "services", "keda/prometheus", "keda/postgresql"])
def test_kubectl_builds_it(folder: str) -> None:
    made = built(PLACE / folder)
    for manifest in made:
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "organism"
        checked(manifest, VERSIONS[-1])
    wanted = {document["metadata"]["name"] for file in (PLACE / folder).rglob("*.yaml") for document in named_in(file)}
    assert wanted <= {manifest["metadata"]["name"] for manifest in made}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for image in re.findall(r"image: (\S+)", yaml.safe_dump_all(made)):
        assert re.fullmatch(rf"xml-pipeline-[a-z-]+:{re.escape(version)}", image)


def named_in(file: Path) -> list[Manifest]:
    return [] if file.name == k8s.KUSTOMIZATION else k8s.read(file)


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")
def test_an_organism_in_the_images_takes_the_place_of_the_config_map(tmp_path: Path) -> None:
    copy = shutil.copytree(PLACE, tmp_path / "kubernetes")
    site = copy / "site" / k8s.KUSTOMIZATION
    site.write_text(site.read_text() + "components: [../organism-in-image]\n")
    made = [one for folder in ("setup", "commands", "services") for one in built(copy / folder)]
    pods = [Workload(one) for one in made if one["kind"] in ("Deployment", "Job")]
    assert {pod.name for pod in pods} == set(WORKLOADS)
    for pod in pods:
        before = WORKLOADS[pod.name].pod
        assert names(pod.pod["volumes"]) == without_organism(before["volumes"])
        [mounts], [then] = ([one["volumeMounts"] for one in some["containers"]] for some in (pod.pod, before))
        assert names(mounts) == without_organism(then)


def names(things: list[Manifest]) -> list[str]:
    return [str(thing["name"]) for thing in things]


def without_organism(things: list[Manifest]) -> list[str]:
    left = names(things)
    left.remove("organism")
    return left


# What each pod may


def container_names() -> list[tuple[str, str]]:
    return [(name, container["name"]) for name, workload in WORKLOADS.items() for container in workload.containers]


@pytest.mark.parametrize(("workload", "container"), container_names())
def test_a_container_may_nothing_that_it_does_not_need(workload: str, container: str) -> None:
    pod = WORKLOADS[workload].pod
    [one] = [one for one in WORKLOADS[workload].containers if one["name"] == container]
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert {"name": "tmp", "mountPath": "/tmp"} in one["volumeMounts"]
    assert [mount["name"] for mount in one["volumeMounts"] if not mount.get("readOnly")] == ["tmp"]
    [tmp] = [volume for volume in pod["volumes"] if volume["name"] == "tmp"]
    assert tmp["emptyDir"]["sizeLimit"]
    assert set(one["resources"]["requests"]) == {"cpu", "memory"}
    assert one["resources"]["limits"].keys() == {"memory"}


@pytest.mark.parametrize("name", WORKLOADS)
def test_images_and_users_are_the_dockerfiles(name: str) -> None:
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n((?:(?!FROM ).*\n)*)", DOCKERFILE, flags=re.MULTILINE))
    security = WORKLOADS[name].pod["securityContext"]
    user = f"USER {security['runAsUser']}:{security['runAsGroup']}"
    assert security["fsGroup"] == security["runAsGroup"]
    for container in WORKLOADS[name].containers:
        assert container["image"] == f"xml-pipeline-{name if name in SERVICES else 'organism'}"
        assert user in stages[container["image"].removeprefix("xml-pipeline-")].splitlines()


def test_every_image_has_its_tag_once() -> None:
    images = k8s.kustomizations()[PLACE / "site"]["images"]
    assert sorted(image["name"] for image in images) == sorted({*image_names()})
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {image["newTag"] for image in images} == {version}


def image_names() -> Iterator[str]:
    for workload in WORKLOADS.values():
        yield from (container["image"] for container in workload.containers)


@pytest.mark.parametrize("name", WORKLOADS)
def test_secrets_are_for_the_group_alone(name: str) -> None:
    for volume in WORKLOADS[name].pod["volumes"]:
        for kind in {"secret", "projected"} & volume.keys():
            assert volume[kind]["defaultMode"] == 0o440


# How it starts, and what it is told


def settings_read() -> set[str]:
    class Noted(dict[str, str]):
        def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
            found.add(key)
            return default

    found = {f"ORGANISM_{field.upper()}" for field in Settings.model_fields}
    WorkerSettings.from_environment(Noted())
    return found


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_variable_is_read(name: str) -> None:
    known = settings_read()
    for container in WORKLOADS[name].containers:
        # In `commands` by whoever types them.
        by_hand = {"BROKER_MANAGEMENT"} if name == "commands" else set[str]()
        expanded = by_hand | set(re.findall(r"\$\((\w+)\)", " ".join(container.get("args", ()))))
        for variable in container.get("env", ()):
            assert variable["name"] in (expanded if not variable["name"].startswith("ORGANISM_") else known)
        assert expanded <= {variable["name"] for variable in container.get("env", ())}


def test_the_settings_say_what_they_mean() -> None:
    worker = {one["name"]: one.get("value", "") for one in DEPLOYMENTS["agent-worker"].environment.values()}
    assert WorkerSettings.from_environment(worker).processes == int(worker["ORGANISM_WORKER_PROCESSES"])
    gateway = DEPLOYMENTS["gateway"].environment
    [port] = [
        one["containerPort"] for one in DEPLOYMENTS["gateway"].pod["containers"][0]["ports"] if one["name"] == "http"
    ]
    assert gateway["ORGANISM_PORT"]["value"] == str(port)
    assert gateway["ORGANISM_HOST"]["value"] == "0.0.0.0"  # noqa: S104


def test_no_password_is_written_down() -> None:
    assert not k8s.manifests("Secret")
    for key, url in k8s.connections().items():
        service = next(name for name in SERVICES if key in (f"{name}-broker", f"{name}-database"))
        assert (urlsplit(url).username, urlsplit(url).password) == (service, None)
    for workload in WORKLOADS.values():
        for name, variable in workload.environment.items():
            assert "PASSWORD" not in name or name.endswith("_FILE")
            assert "://" not in variable.get("value", "")


@pytest.mark.parametrize("name", WORKLOADS)
def test_connections_are_there(name: str) -> None:
    assert WORKLOADS[name].config_maps().get("connections", set()) <= set(k8s.connections())


def test_the_agent_worker_gets_nothing_of_the_database() -> None:
    worker = DEPLOYMENTS["agent-worker"]
    assert not [name for name in worker.secrets() if "database" in name]
    assert not [variable for variable in worker.environment if "DATABASE" in variable]
    assert not re.search("database|postgres", str(worker.manifest))
    for name in ("gateway", "router", "usage"):
        assert set(DEPLOYMENTS[name].secrets()) >= {f"{name}-database", f"{name}-broker"}


def test_each_service_has_passwords_of_its_own() -> None:
    for name, workload in DEPLOYMENTS.items():
        others = {f"{other}-{kind}" for other in SERVICES if other != name for kind in ("broker", "database")}
        assert not others & set(workload.secrets())
        assert not {"database-owner", "broker-admin"} & set(workload.secrets())


def test_the_organism_of_the_config_map_is_the_example() -> None:
    folder, example = PLACE / "base" / "organism", ROOT / "examples" / "hello-world"
    [organism] = [
        one for one in k8s.kustomizations()[PLACE / "base"]["configMapGenerator"] if one["name"] == "organism"
    ]
    assert sorted(organism["files"]) == sorted(f"organism/{file.name}" for file in folder.iterdir())
    for file in folder.iterdir():
        assert file.read_bytes() == (example / file.name).read_bytes()
    assert load_organism(folder / "organism.yaml").listeners


# How it lives and ends


@pytest.mark.parametrize("name", SERVICES)
def test_probes_ask_the_ops_port(name: str) -> None:
    [container] = DEPLOYMENTS[name].pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert re.search(rf"ORGANISM_OPS_PORT={ports['ops']}\b", DOCKERFILE)
    asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: (one["path"], one["port"]) for kind, one in asked.items()} == {
        "startup": ("/livez", "ops"),
        "liveness": ("/livez", "ops"),
        "readiness": ("/readyz", "ops"),
    }
    annotations = DEPLOYMENTS[name].manifest["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["ops"])


def longest_stop(workload: Workload) -> float:
    """Seconds that its stop may take, by the code, and what comes before it."""
    hook = workload.pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    grace = float(workload.environment.get("ORGANISM_WORKER_GRACE", {}).get("value", HANDLERS))
    return float(hook) + (grace + AFTER_HANDLERS if workload.name == "agent-worker" else WHOLE)


@pytest.mark.parametrize("name", SERVICES)
def test_a_stop_has_more_time_than_it_takes(name: str) -> None:
    assert DEPLOYMENTS[name].pod["terminationGracePeriodSeconds"] >= longest_stop(DEPLOYMENTS[name]) + MARGIN


def test_who_is_behind_a_service_waits_before_it_stops() -> None:
    reached = {service["spec"]["selector"]["app.kubernetes.io/name"] for service in k8s.manifests("Service")}
    waiting = {name for name, one in DEPLOYMENTS.items() if "preStop" in one.pod["containers"][0].get("lifecycle", {})}
    assert reached == waiting == {"gateway"}


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_replaced_is_there_first_and_spread(name: str) -> None:
    spec = DEPLOYMENTS[name].manifest["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert spec.get("replicas") == (None if name == "agent-worker" else 2)
    spread = {one["topologyKey"]: one for one in DEPLOYMENTS[name].pod["topologySpreadConstraints"]}
    assert set(spread) == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    for one in spread.values():
        assert one["labelSelector"]["matchLabels"].items() <= DEPLOYMENTS[name].labels.items()


def test_every_service_has_a_disruption_budget() -> None:
    budgets = {one["metadata"]["name"]: one["spec"] for one in k8s.manifests("PodDisruptionBudget")}
    assert set(budgets) == set(DEPLOYMENTS) == set(SERVICES)
    for name, budget in budgets.items():
        assert budget["selector"] == DEPLOYMENTS[name].manifest["spec"]["selector"]
        assert budget["selector"]["matchLabels"].items() <= DEPLOYMENTS[name].labels.items()
        assert budget["maxUnavailable"] in (1, "25%")


def test_the_gateway_is_found_by_its_service() -> None:
    [service] = k8s.manifests("Service")
    assert service["spec"]["selector"].items() <= DEPLOYMENTS["gateway"].labels.items()
    ports = {port["name"] for port in DEPLOYMENTS["gateway"].pod["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    assert service["spec"].get("type", "ClusterIP") == "ClusterIP"


def test_a_setup_whose_turn_never_comes_ends() -> None:
    assert 0 < JOBS["setup"].manifest["spec"]["activeDeadlineSeconds"] <= 3600


def test_the_setup_ends_at_once_where_it_is_told_something_wrong() -> None:
    job = JOBS["setup"].manifest["spec"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    [rule] = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
    assert [container["name"] for container in JOBS["setup"].containers] == [
        "migrate",
        "database-setup",
        "broker-setup",
    ]
