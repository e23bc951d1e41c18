"""cluster.yaml through Ray's own AWS provider, against moto's EC2 and IAM, as far as the creation of nodes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

moto = pytest.importorskip("moto", reason="moto, of the test extra, is not installed here")
boto3 = pytest.importorskip("boto3", reason="boto3, of the extra `cluster`, is not installed here")

ROOT = Path(__file__).parents[2]
REGION = "us-east-1"


pytestmark = pytest.mark.slow  # moto takes 12 s to tell Ray of all instance types


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An account with a default network, an image and the two instance profiles; `ec2` as a user sees it."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for name, value in {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        patch.chdir(ROOT)
        with account() as ec2:
            yield ec2


@contextlib.contextmanager
def account() -> Iterator[Any]:
    from ray.autoscaler._private.aws.utils import client_cache, resource_cache

    with moto.mock_aws():
        resource_cache.cache_clear()  # Ray keeps its connections, so those of another test
        client_cache.cache_clear()
        iam = boto3.client("iam", REGION)
        trust = {"Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}}]}
        for name in ("sweeps-head", "sweeps-worker"):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
            iam.create_instance_profile(InstanceProfileName=name)
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        yield boto3.client("ec2", REGION)
    resource_cache.cache_clear()
    client_cache.cache_clear()


@pytest.fixture(scope="module")
def config(aws: Any) -> dict[str, Any]:
    """The file, filled in, as `ray up` completes it by asking AWS."""
    from ray.autoscaler._private.commands import _bootstrap_config

    image = aws.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    for name, value in {
        "FILL-IN-REGION": REGION,
        "FILL-IN-AMI": image,
        "FILL-IN-HEAD-PROFILE": "sweeps-head",
        "FILL-IN-WORKER-PROFILE": "sweeps-worker",
        "FILL-IN-BUCKET": "bucket",
    }.items():
        text = text.replace(name, value)
    return _bootstrap_config(yaml.safe_load(text), no_config_cache=True)


def launched(aws: Any, config: dict[str, Any], node_type: str) -> list[dict[str, Any]]:
    """The instance that Ray's launcher has AWS run. (Of several, moto would run one.)"""
    from ray.autoscaler._private.event_summarizer import EventSummarizer
    from ray.autoscaler._private.node_launcher import BaseNodeLauncher
    from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler._private.util import ConcurrentCounter

    provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    pending = ConcurrentCounter()
    pending.inc(node_type, 1)
    launcher = BaseNodeLauncher(provider, pending, EventSummarizer(), NodeProviderAvailabilityTracker(), "session")
    created = launcher.launch_node(config, 1, node_type)
    assert created is not None, f"no {node_type} was launched"
    found = aws.describe_instances(InstanceIds=list(created))["Reservations"]
    return [instance for reservation in found for instance in reservation["Instances"]]


def test_workers_are_what_the_file_asks_for(aws: Any, config: dict[str, Any]) -> None:
    (spot,) = launched(aws, config, "gpu-spot")
    (on_demand,) = launched(aws, config, "gpu-on-demand")
    for instance in (spot, on_demand):
        assert instance["InstanceType"] == "g5.xlarge"
        assert instance["IamInstanceProfile"]["Arn"].endswith(":instance-profile/sweeps-worker")
        assert instance["MetadataOptions"]["HttpTokens"] == "required"
        assert instance["KeyName"] == f"ray-autoscaler_{REGION}"
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        assert tags["ray-cluster-name"] == "sweeps" and tags["ray-node-type"] == "worker"
    assert spot["InstanceLifecycle"] == "spot"
    assert on_demand.get("InstanceLifecycle") != "spot"
    assert {"Key": "ray-user-node-type", "Value": "gpu-spot"} in spot["Tags"]


def test_the_head_has_rights_of_its_own_and_no_place_for_tasks(aws: Any, config: dict[str, Any]) -> None:
    (head,) = launched(aws, config, config["head_node_type"])
    assert head["InstanceType"] == "m6i.large" and head.get("InstanceLifecycle") != "spot"
    assert head["IamInstanceProfile"]["Arn"].endswith(":instance-profile/sweeps-head")
    assert config["available_node_types"]["head"]["resources"]["CPU"] == 0


def test_only_ssh_is_open_to_the_world(aws: Any, config: dict[str, Any]) -> None:
    (instance,) = launched(aws, config, "gpu-spot")
    ids = [group["GroupId"] for group in instance["SecurityGroups"]]
    (group,) = aws.describe_security_groups(GroupIds=ids)["SecurityGroups"]
    assert group["GroupName"] == "ray-autoscaler-sweeps"
    world = [rule for rule in group["IpPermissions"] if rule.get("IpRanges") or rule.get("Ipv6Ranges")]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in world] == [(22, 22)]


def test_what_aws_says_of_the_instances_is_what_is_planned_with(
    aws: Any, config: dict[str, Any], tmp_path: Path
) -> None:
    """The table of instance types agrees with what Ray is told by AWS."""
    from orchestrator.cluster_file import read_cluster_file

    path = tmp_path / "cluster.yaml"
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    for kind in read_cluster_file(path).kinds:
        assert kind.resources == config["available_node_types"][kind.name]["resources"], kind.name


def test_spot_first_and_on_demand_after_a_refusal(
    aws: Any, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own scheduler, with the scorer that the head is started with."""
    from ray.autoscaler._private.constants import AUTOSCALER_UTILIZATION_SCORER_KEY
    from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler._private.resource_demand_scheduler import ResourceDemandScheduler
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    start = " ".join(config["head_start_ray_commands"])
    assert f"{AUTOSCALER_UTILIZATION_SCORER_KEY}=orchestrator.spot.score" in start
    assert "RAY_enable_autoscaler_v2=0" in start  # the scorer is read by v1 alone
    monkeypatch.setenv(AUTOSCALER_UTILIZATION_SCORER_KEY, "orchestrator.spot.score")
    (head,) = launched(aws, config, config["head_node_type"])
    provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    provider.non_terminated_nodes({})  # so that it knows their tags
    tracker = NodeProviderAvailabilityTracker(timer=lambda: 0.0)

    def asked(demands: list[dict[str, float]]) -> dict[str, int]:
        scheduler = ResourceDemandScheduler(
            provider, config["available_node_types"], config["max_workers"], config["head_node_type"], 100.0
        )
        launch, _ = scheduler.get_nodes_to_launch([head["InstanceId"]], {}, demands, {}, [], {}, [], tracker.summary())
        return dict(launch)

    slots = [{"CPU": 1.0, "GPU": 0.25}] * 12
    assert asked(slots) == {"gpu-spot": 3}
    tracker.update_node_availability("gpu-spot", 0, NodeLaunchException("InsufficientInstanceCapacity", "none", None))
    assert asked(slots) == {"gpu-on-demand": 3}
    tracker.update_node_availability("gpu-spot", 0, None)
    assert asked(slots) == {"gpu-spot": 3}


def test_what_ray_up_leaves_on_the_head_tells_the_driver_what_may_be_added(config: dict[str, Any]) -> None:
    from orchestrator.cluster import possible_kinds

    with pytest.MonkeyPatch.context() as patch:
        left = Path.home() / "ray_bootstrap_config.yaml"
        left.write_text(json.dumps(config), encoding="utf-8")  # as `get_or_create_head_node` writes it
        patch.setenv("ORCHESTRATOR_CLUSTER_FILE", str(left))
        kinds = {kind.name: kind for kind in possible_kinds() or ()}
    assert {name for name, kind in kinds.items() if kind.head} == {"head"}
    assert kinds["head"].resources["CPU"] == 0
    spot = kinds["gpu-spot"]
    assert (spot.least, spot.most, spot.dollars) == (0, 8, 0.45)
    assert spot.labels["ray.io/market-type"] == "spot"
    assert spot.resources["GPU"] == 1 and spot.resources["CPU"] == 4 and spot.resources["accelerator_type:A10G"] == 1
