"""What a press of TAB offers, in a real bash; in zsh and fish where they are installed."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ASK = """
eval "$(orchestrator completion bash)"
while IFS= read -r line; do
    COMP_LINE="$line" COMP_POINT=${#line} COMP_TYPE=9 COMPREPLY=()
    _python_argcomplete orchestrator
    echo "${COMPREPLY[*]}"
done
"""
RUN = "2026-11-22T10-26-42.173427"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a sweep file and a store, where the command `orchestrator` is there."""
    script = tmp_path / "bin/orchestrator"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom orchestrator.__main__ import main\nsys.exit(main())\n")
    script.chmod(0o755)
    here = tmp_path / "here"
    for folder in (f"runs/sam_rho/{RUN}", "runs/width", "artifacts/Lanczos/3f2a9c" + 26 * "0", "artifacts/Train"):
        (here / "artifacts" / folder).mkdir(parents=True)
    (here / "sam_rho.py").touch()
    (here / "cluster.yaml").touch()
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.delenv("ORCHESTRATOR_STORE", raising=False)
    return here


def test_what_bash_is_offered(shell):
    asked = {
        "orchestrator sw": "sweep ",
        "orchestrator sweep s": "sam_rho.py ",
        "orchestrator sweep sam_rho.py --dr": "--dry-run ",
        "orchestrator sweep sam_rho.py --keep-weights b": "best ",
        "orchestrator report ": "sam_rho width",
        f"orchestrator report sam_rho --run {RUN[:4]}": f"{RUN} ",
        "orchestrator ls L": "Lanczos ",
        "orchestrator show 3f": "3f2a9c000000 ",
        "orchestrator show 3f --store nowhere": "",
        "orchestrator doctor c": "cluster.yaml ",
    }
    done = subprocess.run(
        ["bash", "-c", ASK], input="".join(f"{line}\n" for line in asked), capture_output=True, text=True, timeout=120
    )
    assert dict(zip(asked, done.stdout.splitlines(), strict=True)) == asked, done.stderr


def test_tab_in_a_terminal(shell):
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    try:
        os.write(terminal, b'PS1="ready> "; eval "$(orchestrator completion bash)"; echo loa""ded\n')
        until(terminal, b"loaded")
        os.write(terminal, b"orchestrator rer\t")
        until(terminal, b"orchestrator rerun ")
    finally:
        os.close(terminal)
        with contextlib.suppress(ChildProcessError):
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def until(terminal: int, wanted: bytes) -> None:
    """Read until this is there; the time is a limit, nothing that is measured."""
    seen, end = b"", time.monotonic() + 60
    while wanted not in seen:
        assert time.monotonic() < end and select.select([terminal], [], [], 60)[0], seen
        seen += os.read(terminal, 4096)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed here")
def test_what_fish_is_offered(shell):
    script = "orchestrator completion fish | source; complete -C'orchestrator show 3f'; complete -C'orchestrator sw'"
    done = subprocess.run(["fish", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["3f2a9c000000\tLanczos", "sweep\tplan a sweep, run what is not stored, report"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed here")
def test_zsh_takes_it_in(shell):
    script = 'autoload -U compinit; compinit -u; eval "$(orchestrator completion zsh)"; echo ${_comps[orchestrator]}'
    done = subprocess.run(["zsh", "-fc", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "_python_argcomplete", done.stderr


def test_no_verb_makes_a_shell_wait_for_torch_or_ray(shell):
    code = (
        "import sys; from orchestrator.__main__ import VERBS; from orchestrator.completion import make_parser\n"
        "for verb in VERBS: make_parser(VERBS, 'artifacts', f'orchestrator {verb} ')\n"
        "print({'torch', 'ray', 'pyarrow', 'matplotlib', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "set()", done.stderr
