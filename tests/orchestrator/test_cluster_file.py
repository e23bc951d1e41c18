"""Cluster files: what they say of nodes, and what is wrong with them, each in one sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.__main__ import main
from orchestrator.cluster_checks import problems
from orchestrator.cluster_file import quantity, ray_start_flags, read_cluster_file
from orchestrator.cluster_values import PLACEHOLDER
from orchestrator.cluster_yaml import read_documents
from orchestrator.errors import InvalidValue
from orchestrator.instance_types import instance_type

ROOT = Path(__file__).parents[2]
NAMES = ("cluster.yaml", "clusters/gcp.yaml", "clusters/kuberay.yaml", "clusters/onprem.yaml")
FILES = {name: ROOT / name for name in NAMES}
VALUES = {
    "FILL-IN-REGION": "us-east-1",
    "FILL-IN-AMI": "ami-0123456789abcdef0",
    "FILL-IN-STORE": "s3://studies/sweeps",
    "FILL-IN-KEY": "~/.ssh/cluster",
}
"""What a user writes; the others may be any name."""
OF_FILE = {"clusters/gcp.yaml": {"FILL-IN-SERVICE-ACCOUNT": "sweeps@studies.iam.gserviceaccount.com"}}
"""What the same placeholder means in one of the files."""


@pytest.fixture(autouse=True)
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home with a token, and the project as the working folder, as for `ray up`."""
    (tmp_path / "home/.ray").mkdir(parents=True)
    (tmp_path / "home/.ray/auth_token").write_text("secret")
    for name, text in ((".ssh/cluster", "-----BEGIN OPENSSH PRIVATE KEY-----\n"), (".aws/credentials", "[default]\n")):
        file = tmp_path / "home" / name
        file.parent.mkdir()
        file.write_text(text)
        file.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(ROOT)


def filled(name: str) -> str:
    """The text of a shipped file with its placeholders filled in."""
    values = VALUES | OF_FILE.get(name, {})
    return PLACEHOLDER.sub(lambda m: values.get(m[0], m[0].removeprefix("FILL-IN-").lower()), FILES[name].read_text())


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_file_lacks_what_the_user_must_fill_in_and_nothing_else(name: str) -> None:
    wanted = {m for line in FILES[name].read_text().splitlines() for m in PLACEHOLDER.findall(line.split(" #")[0])}
    wanted -= {"FILL-IN"}  # the headline
    found = problems(FILES[name])
    assert {p.place for p in found} == wanted and len(wanted) >= 3
    for problem in found:
        where = re.match(r"Lines? ([\d, and]+):", problem.sentence)[1]
        for number in re.findall(r"\d+", where):
            assert problem.place in FILES[name].read_text().splitlines()[int(number) - 1]


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_file_is_sound_once_filled_in(name: str, tmp_path: Path) -> None:
    assert problems(write(tmp_path, filled(name))) == []


def test_kinds_of_the_aws_file(tmp_path: Path) -> None:
    file = read_cluster_file(write(tmp_path, filled("cluster.yaml")))
    head, on_demand, spot = file.kinds
    assert (file.provider, file.most_workers, file.idle_minutes) == ("aws", 8, 5)
    assert (head.head, head.resources, head.least, head.most) == (True, {"CPU": 0}, 1, 1)
    gpu = {"CPU": 4, "memory": int(16 * 2**30 * 0.7), "GPU": 1, "accelerator_type:A10G": 1}
    assert spot.resources == on_demand.resources == gpu
    assert (spot.least, spot.most, on_demand.most) == (0, 8, 4)
    assert spot.dollars < on_demand.dollars and spot.labels["ray.io/market-type"] == "spot"
    assert spot.name > on_demand.name  # of equals Ray's autoscaler takes the name that sorts last


def test_kinds_of_the_kuberay_file(tmp_path: Path) -> None:
    file = read_cluster_file(write(tmp_path, filled("clusters/kuberay.yaml")))
    head, spot, on_demand = file.kinds
    assert (file.provider, file.idle_minutes, file.most_workers) == ("kuberay", 5, 12)
    assert head.resources["CPU"] == 0 and head.head
    assert spot.resources == {"CPU": 4, "GPU": 1, "memory": 14 * 2**30, "accelerator_type:L4": 1}
    assert (spot.least, spot.most, on_demand.dollars) == (0, 8, 0.71)


HOSTS = {
    "cluster_name": "here",
    "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]},
    "auth": {"ssh_user": "ubuntu"},
    "file_mounts": {"~/.ray/auth_token": "~/.ray/auth_token"},
    "head_start_ray_commands": [
        "ray stop",
        "export RAY_AUTH_MODE=token RAY_enable_autoscaler_v2=0; ulimit -n 65536 && ray start --head --num-cpus 0 "
        "--port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml",
    ],
    "worker_start_ray_commands": [
        "ray stop",
        "RAY_AUTH_MODE=token ray start --address=$RAY_HEAD_IP:6379 --num-cpus=8 --num-gpus=2 "
        """--resources='{"disk": 3}' --labels="dollars-per-hour=0.5,room=b" """,
    ],
}


def test_hosts_state_what_they_have_by_flags(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(HOSTS))
    assert problems(path) == []
    head, worker = read_cluster_file(path).kinds
    assert (head.resources, head.head) == ({"CPU": 0}, True)
    assert worker.resources == {"CPU": 8, "GPU": 2, "disk": 3}
    assert (worker.least, worker.most, worker.dollars, worker.labels["room"]) == (2, 2, 0.5, "b")


def test_hosts_that_state_nothing_are_sound_but_no_ground_for_a_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = yaml.safe_dump(HOSTS).replace("--num-cpus=8", "")
    path = write(tmp_path, text)
    assert problems(path) == []
    with pytest.raises(InvalidValue, match=r"worker_start_ray_commands .* --num-cpus"):
        read_cluster_file(path)
    assert main(["doctor", str(path)]) == 0
    out = capsys.readouterr().out
    assert "--num-cpus" in out and out.count(str(path)) == 1


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("ray start --head --num-cpus=0", {"head": "", "num-cpus": "0"}),
        ("ulimit -n 65536; ray start --address $A --num-gpus 2", {"address": "$A", "num-gpus": "2"}),
        ("A=1 exec ray start --head # --num-cpus=3", {"head": ""}),
        ("echo ray start --head", {}),
        ("ray start --labels='a=b c", {}),
    ],
)
def test_flags_of_ray_start(command: str, flags: dict[str, str]) -> None:
    assert ray_start_flags(["ray stop", command]) == flags


def test_instance_types_are_as_aws_describes_them() -> None:
    """Against the description that moto ships, of more than a thousand types."""
    import gzip
    import json

    import moto.ec2

    described = json.loads(
        gzip.decompress((Path(moto.ec2.__file__).parent / "resources/instance_types.json.gz").read_bytes())
    )
    seen = 0
    for name, description in described.items():
        known = instance_type(name)
        if known is None:
            continue
        gpus = (description.get("GpuInfo") or {}).get("Gpus") or [{"Count": 0, "Name": ""}]
        assert known.cpus == description["VCpuInfo"]["DefaultVCpus"], name
        assert known.memory == description["MemoryInfo"]["SizeInMiB"] * 2**20, name
        assert (known.gpus, known.accelerator) == (gpus[0]["Count"], gpus[0]["Name"]), name
        seen += 1
    assert seen > 150 and instance_type("m5.metal") is None and instance_type("x9.large") is None


@pytest.mark.parametrize(("text", "number"), [("500m", 0.5), ("32Gi", 32 * 2**30), (4, 4), ("2k", 2000)])
def test_quantities(text: Any, number: float) -> None:
    assert quantity(text) == pytest.approx(number)


# --- damaged files: each is one sentence that names place and remedy -------------------------------------------------

Damage = Callable[[str], str]


def swap(old: str, new: str) -> Damage:
    def damage(text: str) -> str:
        assert old in text, f"the file does not hold {old!r}"
        return text.replace(old, new)

    return damage


def dedented(first: str, last: str) -> Damage:
    """The lines between two words two columns to the left."""

    def damage(text: str) -> str:
        start, end = text.index(f"  {first}"), text.index(f"\n{last}")
        return text[:start] + re.sub("^  ", "", text[start:end], flags=re.MULTILINE) + text[end:]

    return damage


AWS = [
    (swap("InstanceType: g5", "InstanceTyp: g5"), "gpu-on-demand.*InstanceTyp is not known.*'InstanceType'"),
    (swap("InstanceType: g5.xlarge", "InstanceType: g5.xlrage"), "must not be 'g5.xlrage'.*'g5.xlarge'"),
    (swap("MarketType: spot", "MarketTyp: spot"), "gpu-spot.*InstanceMarketOptions.MarketTyp .*'MarketType'"),
    (swap("VolumeSize: 200", "VolumeSize: big"), r"BlockDeviceMappings\[0\].Ebs.VolumeSize must be a whole number"),
    (swap("IamInstanceProfile: {Name: *worker_profile}", "EbsOptimized: true"), "gpu-spot: workers cannot write to S3"),
    (swap("IamInstanceProfile: {Name: *head_profile}", "EbsOptimized: true"), "head: .*iam:PassRole"),
    (swap("      MetadataOptions", "      MinCount: 2\n      MetadataOptions"), "MinCount is set by Ray.*min_workers"),
    (swap("cache_stopped_nodes", "cache_stoped_nodes"), "cache_stoped_nodes is not known.*cache_stopped_nodes"),
    (swap("type: aws", "type: asw"), "provider.type must be one of aws, gcp, local, not 'asw'.*'aws'"),
    (swap("  region: *region", ""), "provider.region is missing: aws needs it"),
    (swap("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"), "opens the dashboard.*127.0.0.1"),
    (
        swap("RAY_AUTH_MODE=token;\n    ray start --address", "X=1;\n    ray start --address"),
        "worker_start_ray_commands does not export RAY_AUTH",
    ),
    (swap("export RAY_AUTH_MODE=token RAY_en", "export RAY_en"), "head_start_ray_commands does not export RAY_AUTH"),
    (swap("  ~/.ray/auth_token: ~/.ray/auth_token", ""), "file_mounts does not bring the token.*get-auth-token"),
    (swap("auth_token: ~/.ray/auth_token", "auth_token: ~/none/auth_token"), "'~/none/auth_token' does not exist here"),
    (swap("./sweeps", "./sweep"), "'./sweep' does not exist here"),
    (swap("-e '.[s3,cluster,search]' -c constraints.txt", "'ray[default]==2.9.3'"), "would have Ray 2.9.3.*but here"),
    (swap("-e '.[s3,cluster,search]' -c constraints.txt", "-e ."), "setup_commands does not pin Ray.*constraints.txt"),
    (swap("export ORCHESTRATOR_STORE=", "export STORE="), "No command exports ORCHESTRATOR_STORE=s3://"),
    (swap("idle_timeout_minutes: 5", "idle_timeout_minuts: 5"), "idle_timeout_minuts is not known to Ray.*minutes"),
    (swap("max_workers: 8 #", "max_workers: many #"), "max_workers must be a whole number, not 'many'"),
    (swap("resources: {CPU: 0}", "resources: {CPU: 0.5}"), "available_node_types.head.resources.CPU must be a whole"),
    (swap("    resources: {} #", "    #"), "available_node_types.gpu-on-demand must state resources"),
    (swap('{dollars-per-hour: "0.45"', "{dollars-per-hour: 0.45"), "labels.dollars-per-hour must be text"),
    (swap('"0.45"', '"cheap"'), "gpu-spot: the label dollars-per-hour must be a price"),
    (swap("market-type: spot", "market-type: spot market"), "the label ray.io/market-type: 'spot market' is not"),
    (swap("head_node_type: head", "head_node_type: haed"), "head_node_type must be one of head, .*not 'haed'.*'head'"),
    (swap("    min_workers: 0", "    min_workers: 7"), "max_workers is 8, but the node types want 14"),
    (swap("ray start --address=$RAY_HEAD_IP:6379", "ray start"), "worker_start_ray_commands joins no cluster"),
    (swap("--autoscaling-config=~/ray_bootstrap_config.yaml", ""), "adds no workers.*--autoscaling-config"),
    (swap("provider:\n", "provider:\n  security_group: {IpPermissions: [{FromPort: 8265, ToPort: 8265, "
          "IpProtocol: tcp, IpRanges: [{CidrIp: 0.0.0.0/0}]}]}\n"), "opens ports 8265 to 8265 to the world"),
    (swap("auth:\n", "auth:\n  ssh_private_key: ~/.ssh/key.pem\n"), "gpu-spot: node_config needs the KeyName"),
    (swap("cluster_name: sweeps", "cluster_name: sweeps\ncluster_name: two"), "line 26: the key 'cluster_name' stands"),
    (swap("cluster_name: sweeps", "cluster_name: [sweeps"), r"line 25 .or just before it.: \[ … \] is not closed"),
    (lambda text: "- 1\n- 2\n", "is no cluster file"),
    (lambda text: "a: 1\n", "neither `provider` nor a RayCluster"),
    (lambda text: text[: text.index("head_start_ray")], "head_start_ray_commands is missing: .* no token"),
    (swap("/studies' > ~/c", "/studies > ~/c"), "setup_commands has a command .*export .*the quote ' is not closed"),
    (swap("unset OMP_NUM_THREADS; export", "unset (; export"), "worker_start_ray_commands has .*is no valid shell"),
    (swap("us-east-1", "us-eest-1"), "region must be a region of AWS such as .*us-east-1, .*, not 'us-eest-1'"),
    (swap("&region us-east-1", "&region us-east-1a"), "provider.region is the zone 'us-east-1a': write"),
    (swap("*region #", "*region\n  availability_zone: us-west-2a #"), "'us-west-2a' is not of the region us-east-1"),
    (swap("ami-0123456789abcdef0", "ubuntu-22.04"), "ImageId must be the id of an image.*not 'ubuntu-22.04'"),
    (swap("max_workers: 8 #", "max_workers: 0 #"), "max_workers is 0.*how many"),
    (swap("s3://bucket", "s3://My_Bucket"), "s3://My_Bucket/studies' cannot be: no bucket is named 'My_Bucket'"),
    (swap("s3://bucket", "gs://bucket"), r"The store is gs://.*write '.\[gcs,cluster,search\]'"),
    (swap("market-type: spot", "market-type: spto"), "gpu-spot: the label ray.io/market-type must be spot or on-"),
    (swap('"0.45"', '"0,45"'), "gpu-spot: the label dollars-per-hour must be a price"),
    (dedented("gpu-spot:", "head_node_type"), "gpu-spot looks like a node type: indent it"),
    (swap("max_workers: 8 #", "max_workers: #"), "Line 26: max_workers is empty: write its value"),
    (swap("&image ami-0123456789abcdef0", "&image"), "^Line 16: metadata.image is empty, and other places take it"),
    (swap('"0.45"', '"0.45'), "line 62: a quote is opened there and not closed"),
    (swap("provider:\n", "providr:\n"), "no cluster file: .*'providr' may be meant for `provider`"),
    (swap("    resources: {CPU: 0} #", "    resources: #"), "Line 31: available_node_types.head.resources is empty"),
    (swap("s3://bucket", "s3:/bucket"), "The store 's3:/bucket/studies' has not two slashes: write s3://bucket/st"),
    (swap("s3://bucket", "s4://bucket"), "The store 's4://bucket/studies' is of no known kind: write s3://bucket/stud"),
    (swap("s3://bucket", "/mnt"), "The store '/mnt/studies' is a folder of each node"),
    (swap("[__pycache__", "['__pycache__"), "line 85: a quote is opened there and not closed"),
    (swap("  gpu-spot:\n", "  gpu-spot\n"), "line 59 .*perhaps for want of a colon"),
    (swap("      ImageId", "     ImageId"), "line 36 .or just before it.: the indentation does not fit"),
    (swap("*worker_profile", "*profile"), "[*]profile is used, but no value above is marked &profile"),
    (lambda text: "#!/bin/sh\nset -e\nray up: x\n- a\n", "is a shell script, no cluster file"),
    (lambda text: "import ray\n\nx = {1: 2}\n", "is a Python file, no cluster file"),
    (lambda text: '[project]\nname = "x"\n', "is a TOML file, no cluster file"),
    (swap("g5.xlarge", "g4ad.xlarge"), "'g4ad.xlarge', which is not known here, .*resources: {CPU: 8, GPU: 1}"),
]  # fmt: skip

GCP = [
    (swap("machineType: g2", "machinType: g2"), "gpu-spot: node_config.machinType is not known.*'machineType'"),
    (swap("scheduling: {onHostMaintenance: TERMINATE}", "canIpForward: false"), "gpu-on-demand: .*onHostMaintenance"),
    (swap("provisioningModel: SPOT", "provisioningModel: SPOOT"), "provisioningModel must be one of .*'SPOT'"),
    (swap("preemptible: true", "preemptible: 3"), "scheduling.preemptible must be true or false"),
    (swap("serviceAccounts:", "serviceAcounts:"), "serviceAcounts is not known to Compute Engine.*'serviceAccounts'"),
    (swap("  project_id: *project", ""), "provider.project_id is missing: gcp needs it"),
    (swap("g2-standard", "g2-standart"), "machineType 'g2-standart-4' is no type .*'g2-standard-4'"),
    (swap("g2-standard-4", "g5.xlarge"), "machineType 'g5.xlarge' is no type of machine: write one such"),
    (swap("zone: us-central1-a", "zone: us-east1-b"), "availability_zone must be a zone of us-central1,.*us-east1-b"),
    (swap("region: us-central1", "region: us-central1-a"), "provider.region is the zone 'us-central1-a'"),
    (swap("sweeps@studies.iam.gserviceaccount.com", "sweeps"), "gpu-spot: .*email must be an address .* not 'sweeps'"),
    (swap("gs://bucket", "s3://bucket"), r"The store is s3://.*write '.\[s3,gcp,cluster,search\]'"),
    (swap("CPU: 4, GPU: 1,", "CPU: 4,"), "gpu-spot: resources does not state the GPUs"),
    (swap("resources: {CPU: 4, GPU: 1, \"accelerator_type:L4\": 1, memory: 12000000000}", "resources: {GPU: 1}"),
     "the node type 'gpu-on-demand' does not state what a node has"),
]  # fmt: skip

KUBERAY = [
    (swap("rayStartParams: {}", "rayStartParam: {}"), r"workerGroupSpecs\[0\].rayStartParam is not known"),
    (swap("      mode: token", "      mode: disabled"), "gpu-spot.*: no token is asked for.*authOptions"),
    (swap("rayVersion: 2.60.0", "rayVersion: 2.9.3"), "rayVersion has Ray 2.9.3, but here is"),
    (swap("    headGroupSpec:\n", "    headGroupSpec:\n      serviceType: LoadBalancer\n"), "the dashboard is open"),
    (swap("serviceAccountName: service-account", "dnsPolicy: Default"), "gpu-spot.*: the pods have no rights"),
    (swap("name: ORCHESTRATOR_STORE", "name: STORE"), "headgroup: env does not state ORCHESTRATOR_STORE"),
    (swap("maxReplicas: 4", "maxReplicas: four"), "maxReplicas must be a whole number, not 'four'"),
    (swap("minReplicas: 0", "minReplicas: 9"), r"gpu-spot: minReplicas \(9\) is larger than maxReplicas \(8\)"),
    (swap("  entrypoint: cd", "  entrypont: cd"), "spec.entrypont is not known to KubeRay.*'entrypoint'"),
    (swap("ray.io/v1", "ray.io/v1alpha1"), "apiVersion must be ray.io/v1"),
    (swap('image: &image image', "image: &image rayproject/ray:2.9.3-py311-gpu"), "has Ray 2.9.3, but here is"),
    (lambda text: text + "---\napiVersion: v1\nkind: Service\nmetadata: {name: open}\nspec: {type: NodePort, "
     "ports: [{port: 8265}]}\n", "Service open opens the dashboard to the world"),
    (swap('limits: {cpu: "4", memory: 14Gi', 'limits: {cpu: "4", memory: 14GiB'),
     r"gpu-spot and gpu-on-demand: the container's resources.limits.memory: '14GiB' is no Kubernetes quantity"),
    (swap("value: s3://studies/sweeps", "value: studies"), "ORCHESTRATOR_STORE 'studies' is a folder of the pod"),
    (swap("value: s3://studies/sweeps", "value: /studies"), "'/studies' is a folder of the pod, .*shared volume"),
    (swap("value: s3://studies/sweeps", "value: s3://My_Bucket/a"), "no bucket is named 'My_Bucket'"),
    (swap("image: &image image", "image: &image registry/sweeps:2.9.3"), "is tagged 2.9.3, but rayVersion is 2.60.0"),
    (swap("metadata:\n  generateName: sweep-", "metadata: [sweep]"), "metadata must be a mapping, not"),
    (swap("name: ORCHESTRATOR_CLUSTER_FILE", "name: [a]"), "name must be text, not"),
    (swap('labels: {dollars-per-hour: "0.28", ray.io/market-type: spot}', "labels: spot"), "labels must be a mapping"),
    (swap("name: ray-worker", "name: ray_worker"), "container's name must be .* 'ray_worker' is not: write ray-worker"),
    (swap("groupName: gpu-spot", "groupName: gpu_spot"), "groupName must be .*write gpu-spot"),
    (swap("market-type: spot", "market-type: preemptible"), "gpu-spot: the label ray.io/market-type must be spot or"),
    (swap("  entrypoint: cd", "  entrypont: cd"), "^RayJob.spec.entrypont is not known"),
    (swap("kind: RayJob", "kind: Rayjob"), "holds a Rayjob, where a RayJob or RayCluster is wanted.*'RayJob'"),
    (swap("kind: RayJob", "kind: Deployment"), "holds a Deployment, where a RayJob or RayCluster is wanted"),
    (swap("kind: RayJob", "kind: RayCluster"), "its RayCluster has the spec of a RayJob: write kind: RayJob"),
    (lambda text: "kind: RayJob\nspec: {headGroupSpec: {}}\n", "put that below spec.rayClusterSpec"),
    (swap("image: &image image", "image: &image"), r"Line 42: .*containers\[0\].image is empty, and other"),
]  # fmt: skip

ONPREM = [
    (swap("RAY_enable_autoscaler_v2=0", ""), "must export RAY_enable_autoscaler_v2=0: .* adds no SSH hosts"),
    (swap("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"), "opens the dashboard to the network"),
    (swap("[worker]", "[worker, head]"), "provider.worker_ips names the head 'head' too"),
    (swap("[worker]", "worker"), r"provider.worker_ips must be a list, not 'worker': write \[worker\]"),
    (swap("[worker]", "- worker"), "line 15 .*write the list as"),
    (swap("[worker]", "[[a, b]]"), "must name hosts by address or name, not \\['a', 'b'\\]"),
    (swap("[worker]", "[a, b, a]"), "provider.worker_ips names 'a' twice"),
    (swap("[worker]", "[10.0.0.2 10.0.0.3]"), "comma is missing: write 10.0.0.2, 10.0.0.3"),
    (swap("[worker]", "[]"), "provider.worker_ips is empty.*name the hosts"),
    (swap("[worker]", "[me@10.0.0.2]"), "holds 'me@10.0.0.2': write 10.0.0.2; .*auth.ssh_user"),
    (swap("&head head", "&head 10.0.0.1:22"), "provider.head_ip holds '10.0.0.1:22': write 10.0.0.1;"),
    (swap("[worker]", "[10.0.0.256]"), "'10.0.0.256', which is neither an address nor a name"),
    (swap("s3://bucket/studies", "studies"), "The store 'studies' is relative"),
    (swap("  ssh_user: *user\n", "  sshuser: *user\n"), "auth.sshuser is not known to Ray"),
]

CORPUS = [
    (name, damage, sentence)
    for name, cases in zip(FILES, (AWS, GCP, KUBERAY, ONPREM), strict=True)
    for damage, sentence in cases
]


@pytest.mark.parametrize(("name", "damage", "sentence"), CORPUS, ids=[f"{n}: {s[:40]}" for n, _, s in CORPUS])
def test_damage_is_named_in_one_sentence(name: str, damage: Damage, sentence: str, tmp_path: Path) -> None:
    found = problems(write(tmp_path, damage(filled(name))))
    assert any(re.search(sentence, str(p)) for p in found), [str(p) for p in found]
    for problem in found:
        assert "\n" not in str(problem) and str(problem).endswith(".") and "Traceback" not in str(problem)
    assert len(found) <= 3  # the damage, not its echoes


def test_a_mount_of_the_whole_project_takes_results_along(tmp_path: Path) -> None:
    for name in (".git", "artifacts", "data"):
        (tmp_path / "project" / name).mkdir(parents=True)
    text = filled("cluster.yaml").replace("~/project/sweeps: ./sweeps", f"~/all: {tmp_path}/project")
    found = problems(write(tmp_path, text))
    assert [p.place for p in found] == ["file_mounts"] and ".git and artifacts and data" in str(found[0])
    excluded = text.replace("rsync_exclude: [", "rsync_exclude: [.git, /artifacts, /data/, ")
    assert problems(write(tmp_path, excluded)) == []


def test_what_is_mounted_is_the_project_without_results(tmp_path: Path) -> None:
    """rsync's own word, with the file's patterns: `tasks/data` is code and goes along."""
    import shutil
    import subprocess

    config = read_documents(write(tmp_path, filled("cluster.yaml")))[0]
    assert {Path(local).name for local in config["file_mounts"].values()}.isdisjoint({".git", "artifacts", "data"})
    if shutil.which("rsync") is None:
        pytest.skip("there is no rsync here")
    exclude = [f"--exclude={pattern}" for pattern in config["rsync_exclude"]]
    for remote, local in config["file_mounts"].items():
        slash = "/" if Path(local).is_dir() else ""
        target = tmp_path / "node" / remote.replace("~/", "")
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["rsync", "-a", *exclude, os.path.expanduser(local) + slash, str(target) + slash], check=True)
    node = tmp_path / "node/project"
    assert (node / "tasks/data/__init__.py").exists() and (node / "constraints.txt").exists()
    assert not list(node.rglob("__pycache__"))


def test_doctor_prints_problems_or_kinds_with_prices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(FILES["cluster.yaml"])]) == 1
    out = capsys.readouterr().out
    assert "FILL-IN-BUCKET is still to be filled in" in out and "5 problems" in out
    assert main(["doctor", str(write(tmp_path, filled("cluster.yaml")))]) == 0
    out = capsys.readouterr().out
    assert re.search(r"gpu-spot +0 to 8 +4 CPU.*A10G +0.45", out) and "At most 8 nodes" in out
    assert main(["doctor", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml' cannot be read: No such file" in capsys.readouterr().out


def test_the_shipped_versions_are_the_tested_ones() -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert pinned == version("ray")
    assert f"rayVersion: {pinned}" in FILES["clusters/kuberay.yaml"].read_text()


def pods(name: str, tmp_path: Path) -> dict[str, Any]:
    """The pod templates of a KubeRay manifest, by group."""
    spec = read_documents(write(tmp_path, filled(name)))[0]["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    return {"headgroup": spec["headGroupSpec"]["template"], **groups}


def test_the_pods_of_the_kuberay_file_are_valid_to_kubernetes(tmp_path: Path) -> None:
    """Against Kubernetes's own description, strictly: a key that it does not know is an error."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed here")
    latest = validate.latest_version()
    for name, template in pods("clusters/kuberay.yaml", tmp_path).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, **template}
        validate.validate(pod, latest, strict=True)
        with pytest.raises(validate.ValidationError):
            validate.validate({**pod, "spec": {**pod["spec"], "serviceAcountName": "a"}}, latest, strict=True)
        with pytest.raises(validate.ValidationError):
            validate.validate({**pod, "spec": {**pod["spec"], "containers": "none"}}, latest, strict=True)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda key: key.unlink(),
            "auth.ssh_private_key: '~/.ssh/cluster' cannot be read (No such file or directory).",
        ),
        (lambda key: key.chmod(0o644), "is open to others, and ssh refuses it: chmod 600 ~/.ssh/cluster."),
        (lambda key: key.write_text("ssh-ed25519 AAAA me\n"), "is no private key; its public half goes to the hosts."),
    ],
)
def test_a_key_that_nobody_logs_in_with_is_named(
    damage: Callable[[Path], object], sentence: str, tmp_path: Path
) -> None:
    damage(tmp_path / "home/.ssh/cluster")
    (found,) = problems(write(tmp_path, filled("clusters/onprem.yaml")))
    assert found.place == "auth" and sentence in str(found)
