import math

import pytest
import torch

from tasks.errors import InvalidValue
from tasks.schedules import Constant, Cosine, StepDecay

STEPS = 40


def factors(schedule):
    return [schedule.factor(step, STEPS) for step in range(STEPS)]


def reference(make_scheduler):
    """Factors of one of PyTorch's schedulers, stepped after each optimizer step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make_scheduler(optimizer)
    values = []
    for _ in range(STEPS):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_constant_is_one():
    assert factors(Constant()) == [1.0] * STEPS


def test_cosine_is_pytorchs():
    expected = reference(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.1))
    assert factors(Cosine(final=0.1)) == pytest.approx(expected, abs=1e-12)


def test_step_decay_is_pytorchs():
    expected = reference(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [20, 30], gamma=0.2))
    assert factors(StepDecay(milestones=(0.5, 0.75), decay=0.2)) == pytest.approx(expected)


def test_warmup_rises_linearly_to_one_and_the_schedule_follows():
    values = factors(Cosine(warmup=0.25))
    assert values[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert values[10:] == pytest.approx([(1 + math.cos(math.pi * k / 30)) / 2 for k in range(30)])


def test_warmup_of_almost_all_steps():
    assert factors(Constant(warmup=0.999)) == pytest.approx([(k + 1) / STEPS for k in range(STEPS)])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Constant(warmup=1.0), "warmup must be below 1"),
        (lambda: Constant(warmup=-0.1), "warmup must be at least 0"),
        (lambda: StepDecay(decay=0), "decay must be more than 0"),
        (lambda: StepDecay(milestones=(0.7, 0.5)), "milestones must increase"),
        (lambda: StepDecay(milestones=(1.5,)), "must be below 1"),
        (lambda: Cosine(final=2), "final must be at most 1"),
    ],
)
def test_impossible_values(make, words):
    with pytest.raises(InvalidValue, match=words):
        make()
