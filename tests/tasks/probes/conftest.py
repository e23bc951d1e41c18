"""Small trained networks that the tests of the probes share."""

import pytest
import torch

from tasks.data import Digits
from tasks.models import MLP
from tasks.optimizers import SGD
from tasks.task import execute
from tasks.train import Train


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """For networks this small, threads that wait for each other cost far more than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Three seeds of a small tanh network on Digits; smooth, so that derivatives are exact."""
    data = execute(Digits(), folder=tmp_path_factory.mktemp("digits"))
    train = Train(dataset=Digits(), model=MLP(widths=(12,), activation="tanh"), epochs=4, optimizer=SGD(0.05, 0.9))
    return [execute(train, data, seed=s, folder=tmp_path_factory.mktemp(f"trained{s}")) for s in range(3)]


@pytest.fixture
def run(tmp_path):
    """Run a probe on artifacts; its artifact."""
    count = iter(range(100))

    def run(probe, *inputs, **options):
        return execute(probe, *inputs, folder=tmp_path / str(next(count)), **options)

    return run
