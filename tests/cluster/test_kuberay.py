"""The Kubernetes manifests: the API's fields, no privilege, commands that exist, and a service that builds."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.cluster_files import JOBS, KUBERAY, ROOT, example, parsed, ray_cluster, ray_start_options
from x2i_platform.config import Recipe
from x2i_platform.errors import ConfigError
from x2i_platform.recipes import load

# Fields of ray.io/v1 (KubeRay 1.6) and of pods, as far as these files use them: an API server refuses others.
JOB_FIELDS = {"submissionMode", "entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
CLUSTER_FIELDS = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"}
HEAD_FIELDS = {"serviceType", "rayStartParams", "template"}
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
POD_FIELDS = {"serviceAccountName", "securityContext", "nodeSelector", "tolerations", "containers", "volumes"}
CONTAINER_FIELDS = {"name", "image", "env", "securityContext", "resources", "volumeMounts"}


def pods(name: str) -> list[dict[str, Any]]:
    """The head's pod, then one of each worker group."""
    cluster = ray_cluster(name)
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("name", KUBERAY)
def test_manifests_use_the_fields_of_the_api(name: str) -> None:
    manifest, cluster = parsed(name), ray_cluster(name)
    job = name in JOBS
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob" if job else "RayService")
    assert manifest["spec"].keys() == (
        {*JOB_FIELDS, "rayClusterSpec"} if job else {"serveConfigV2", "rayClusterConfig"}
    )
    assert cluster.keys() == {*CLUSTER_FIELDS, "headGroupSpec", "workerGroupSpecs"}
    assert cluster["headGroupSpec"].keys() == HEAD_FIELDS
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() == GROUP_FIELDS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for pod in pods(name):
        assert pod.keys() <= POD_FIELDS
        assert all(container.keys() <= CONTAINER_FIELDS for container in pod["containers"])


@pytest.mark.parametrize("name", KUBERAY)
def test_start_parameters_are_options_of_ray_start(name: str) -> None:
    cluster = ray_cluster(name)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert {f"--{key}" for key in group["rayStartParams"]} <= ray_start_options()
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "the API takes strings only"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("name", KUBERAY)
def test_pods_are_unprivileged_and_closed_to_the_outside(name: str) -> None:
    cluster = ray_cluster(name)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            assert container["image"] == example("X2I_IMAGE")
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            secrets = [entry for entry in container["env"] if "TOKEN" in entry["name"]]
            assert secrets and all("secretKeyRef" in entry["valueFrom"] for entry in secrets)


@pytest.mark.parametrize("name", KUBERAY)
def test_gpus_are_asked_for_by_workers_only(name: str) -> None:
    head, *workers = [pod["containers"][0]["resources"] for pod in pods(name)]
    assert "nvidia.com/gpu" not in str(head)
    for worker in workers:
        assert worker["requests"]["nvidia.com/gpu"] == worker["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("name", JOBS)
def test_a_job_goes_on_after_a_failure_and_leaves_no_cluster_behind(name: str) -> None:
    spec = parsed(name)["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"] is True


def overrides(words: list[str]) -> list[str]:
    """The values of all `--set`."""
    return [words[place + 1] for place, word in enumerate(words) if word == "--set"]


def gpus_needed(verb: str, recipe: Recipe) -> float:
    """GPUs that must be there at once."""
    if verb == "train":
        return recipe.run.train.workers * recipe.run.train.num_gpus
    return sum(stage.actors * stage.num_gpus for stage in (recipe.run.text, recipe.run.mllm, recipe.run.targets))


@pytest.mark.parametrize("name", JOBS)
def test_the_cluster_has_room_for_every_gpu_recipe(name: str) -> None:
    words = shlex.split(parsed(name)["spec"]["entrypoint"])
    room = sum(group["maxReplicas"] for group in ray_cluster(name)["workerGroupSpecs"])
    shipped = ROOT / "pipelines" / "recipes"
    for path in shipped.glob("flux-*.yaml"):
        recipe = load(path.stem, shipped=shipped, overrides=overrides(words))
        assert 0 < gpus_needed(words[1], recipe) <= room, path.stem


@pytest.mark.parametrize("name", JOBS)
def test_the_command_line_knows_every_option_of_the_job(name: str) -> None:
    program, verb, *words = shlex.split(parsed(name)["spec"]["entrypoint"])
    assert program == "x2i-platform"
    environment = os.environ | {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    command = [sys.executable, "-c", "import cli; cli.main()", verb, "--help"]
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    missing = {word for word in words if word.startswith("--")} - set(re.findall(r"--[\w-]+", shown.stdout))
    assert not missing, f"x2i-platform {verb} has no {missing}"
    assert words[words.index("--address") + 1] == "auto"


@pytest.mark.parametrize("name", JOBS)
def test_nothing_of_a_job_stays_on_one_pod(name: str) -> None:
    _, _, *words = shlex.split(parsed(name)["spec"]["entrypoint"])
    places = [words[place + 1] for place, word in enumerate(words) if word in ("--captions", "--store", "--runs")]
    assert len(places) == 2
    assert all(place.startswith("s3://") for place in places)


def test_ray_serve_accepts_the_service_and_its_builder_builds_it_on_a_gpu(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.serve import Application
    from ray.serve.schema import ServeDeploySchema

    from pipelines.serve import application as build

    config = ServeDeploySchema.model_validate(
        yaml.safe_load(parsed("kuberay/rayservice.yaml")["spec"]["serveConfigV2"])
    )
    (application,) = config.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    assert (application.route_prefix, config.http_options.port) == ("/", 8000)
    assert application.args["model"] == example("X2I_MODEL")
    shares = [application.args[name] for name in ("num_gpus", "encoder_gpus", "batch_gpus")]
    assert min(shares) > 0, "without it models would load on the CPU"
    assert sum(shares) == 1, "of the one GPU of a pod"
    # The builder looks the model up; the example's registry is nowhere.
    arguments = {**application.args, "model": str(model_folder)}
    with pytest.raises(ConfigError, match="serving needs API keys"):
        build(arguments)
    monkeypatch.setenv("X2I_API_KEYS", "team 0123456789abcdef0123456789")
    assert isinstance(build(arguments), Application)
