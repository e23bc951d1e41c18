"""Names of hosts and processes: who is gone is told from who is not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from orchestrator.identity import host, is_abandoned, mine, process_lives, this_process


def test_what_this_process_has_begun_is_its_own() -> None:
    assert is_abandoned(f"{mine()}-half") is False
    assert process_lives(this_process()["pid"], this_process()["begun"])


def test_what_others_have_begun_cannot_be_told() -> None:
    assert is_abandoned("elsewhere.00000000-1.5-half") is None
    assert is_abandoned("something else") is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells when a process began")
def test_a_process_that_uses_the_number_again_is_another() -> None:
    begun = int(this_process()["begun"])
    assert is_abandoned(f"{host()}-{os.getpid()}.{begun - 1}-half") is True


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells when a process began")
def test_a_process_that_nobody_has_buried_is_gone() -> None:
    """As in a container whose first process takes no notice of orphans: its number stays in use."""
    command = [sys.executable, "-c", "from orchestrator.identity import mine; print(mine(), flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        name = child.stdout.readline().strip()
        assert is_abandoned(f"{name}-half") is False
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended; it stays a zombie
        os.kill(child.pid, 0)
        assert is_abandoned(f"{name}-half") is True
