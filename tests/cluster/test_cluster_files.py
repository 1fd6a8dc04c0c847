"""The `ray up` files and the image against those who read them: Ray's validator, EC2's own request model, a shell."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from typing import Any

import jsonschema
import pytest

from tests.cluster.cluster_files import (
    CLUSTER,
    KUBERAY,
    ROOT,
    UP,
    parsed,
    pinned,
    ray_cluster,
    ray_start_options,
    text_of,
)


def node_types(config: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The head, and all kinds of workers."""
    types = dict(config["available_node_types"])
    head = types.pop(config["head_node_type"])
    return head, list(types.values())


def commands(config: dict[str, Any]) -> list[str]:
    """Every shell command of a `ray up` file."""
    holders = [config, *config["available_node_types"].values()]
    return [command for holder in holders for key in holder if key.endswith("_commands") for command in holder[key]]


@pytest.mark.parametrize("name", UP)
def test_rays_validator_accepts_what_ray_up_would_read(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(parsed(name))
    validate_config(prepared)
    # What a file leaves out comes from Ray's defaults: an unpinned Ray and an open dashboard are among them.
    assert not [command for command in commands(prepared) if "ray-wheels" in command or "0.0.0.0" in command]


@pytest.mark.parametrize("name", UP)
def test_rays_validator_refuses_a_misspelt_key(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepare_config(parsed(name) | {"max_worker": 4}))


@pytest.mark.parametrize("node_type", ["head", "l40s"])
def test_ec2_accepts_the_node_as_a_request(node_type: str) -> None:
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    # Ray turns its own SubnetIds into a SubnetId; all the rest goes to EC2 as it is.
    request = parsed("aws.yaml")["available_node_types"][node_type]["node_config"] | {"MinCount": 1, "MaxCount": 1}
    assert not ParamValidator().validate(request, model.input_shape).has_errors()
    assert ParamValidator().validate(request | {"InstanceMarket": {}}, model.input_shape).has_errors()


def test_the_aws_head_is_on_demand_and_the_workers_are_spot() -> None:
    head, workers = node_types(parsed("aws.yaml"))
    assert "InstanceMarketOptions" not in head["node_config"]
    assert [worker["node_config"]["InstanceMarketOptions"] for worker in workers] == [{"MarketType": "spot"}]


def test_the_gcp_head_is_on_demand_and_the_workers_are_spot() -> None:
    head, workers = node_types(parsed("gcp.yaml"))
    assert "scheduling" not in head["node_config"]
    for worker in workers:
        scheduling = worker["node_config"]["scheduling"]
        assert (scheduling["provisioningModel"], scheduling["onHostMaintenance"]) == ("SPOT", "TERMINATE")
        assert scheduling["automaticRestart"] is False, "Google refuses a spot instance that restarts by itself"


def test_gcp_places_stay_in_one_region_and_workers_may_use_storage() -> None:
    config = parsed("gcp.yaml")
    assert config["provider"]["availability_zone"].startswith(config["provider"]["region"])
    for worker in node_types(config)[1]:
        (account,) = worker["node_config"]["serviceAccounts"]
        assert account["scopes"] == ["https://www.googleapis.com/auth/cloud-platform"]


@pytest.mark.parametrize("name", UP)
def test_the_head_runs_no_task_and_workers_come_on_demand(name: str) -> None:
    config = parsed(name)
    head, workers = node_types(config)
    assert head["resources"] == {"CPU": 0}
    assert all(worker["min_workers"] == 0 and worker["resources"]["GPU"] == 1 for worker in workers)
    assert sum(worker["max_workers"] for worker in workers) == config["max_workers"]


@pytest.mark.parametrize("name", UP)
def test_no_port_is_open_to_the_internet(name: str) -> None:
    config = parsed(name)
    assert "0.0.0.0" not in text_of(name)
    (start,) = (command for command in config["head_start_ray_commands"] if "--head" in command)
    assert "--dashboard-host=127.0.0.1" in start
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    if name == "aws.yaml":
        head, workers = node_types(config)
        # Without a group of the user's own, Ray makes one that lets the whole internet try SSH.
        assert all(node["node_config"]["SecurityGroupIds"] for node in (head, *workers))


@pytest.mark.parametrize("name", UP)
def test_shell_commands_parse_and_ray_knows_their_options(name: str) -> None:
    for command in commands(parsed(name)):
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert checked.returncode == 0, f"{command}: {checked.stderr}"
        if command.startswith("ray start"):
            given = {word.split("=")[0] for word in shlex.split(command) if word.startswith("--")}
            assert given <= ray_start_options()


@pytest.mark.parametrize("name", UP)
def test_nodes_get_the_checkout_and_the_files_that_the_commands_use(name: str) -> None:
    config = parsed(name)
    assert config["file_mounts"]["/home/ray/x2i-platform"].endswith("build/x2i-platform")
    used = {path for command in commands(config) for path in re.findall(r"/x2i-platform/([\w./-]+)", command)}
    assert used
    assert not [path for path in used if not (ROOT / path).is_file()]
    tokens = [target for target in config["file_mounts"] if "tokens" in target]
    assert all(f"={target}" in " ".join(config["docker"]["run_options"]) for target in tokens)


def test_every_file_names_the_pinned_ray_and_a_python_of_the_project() -> None:
    base = f"rayproject/ray:{pinned('ray')}-py311"
    for name in UP:
        docker = parsed(name)["docker"]
        assert (docker["head_image"], docker["worker_image"]) == (f"{base}-cpu", f"{base}-gpu")
    assert {ray_cluster(name)["rayVersion"] for name in KUBERAY} == {pinned("ray")}
    assert f"ARG RAY_IMAGE={base}-gpu\n" in dockerfile()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].startswith(">=3.11,")


def test_pins_install_on_gpu_machines_and_agree_with_the_cloud_requirements() -> None:
    from packaging.requirements import Requirement
    from packaging.version import Version

    lines = (CLUSTER / "requirements-gcp.txt").read_text().splitlines()
    extra = {Requirement(line).name for line in lines if line and not line.startswith("#")}
    assert extra == {"gcsfs", "google-api-python-client"}
    assert all("==" in line for line in lines if not line.startswith("#"))
    assert Version(pinned("fsspec")) >= Version("2026.7.0"), "gcsfs 2026.8.2 wants fsspec 2026.7 or newer"
    assert "+" not in pinned("torch"), "a pin on a CPU build can't be installed on a GPU machine"


def dockerfile() -> str:
    return (CLUSTER / "docker" / "Dockerfile").read_text()


def test_the_image_holds_what_it_needs_and_runs_as_a_number_that_is_not_root() -> None:
    lines = dockerfile().replace("\\\n", " ").splitlines()
    (user,) = (line.split()[1] for line in lines if line.startswith("USER "))
    assert int(user.split(":")[0]) > 0
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[2:-1]]
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == admitted
    assert not [path for path in copied if not (ROOT / path).exists()]
    assert not re.search(r"(?im)^(ENV|ARG)\s+\S*(token|secret|key|password)", dockerfile())


def test_the_image_installs_exactly_the_dependencies_of_the_project() -> None:
    (script,) = re.findall(r'RUN python -c "(import tomllib.*?)"', dockerfile())
    listed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert listed.split("\n")[:-1] == project["dependencies"]
