"""Learning rates, decay groups and the order of the data against their definitions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from malmm.config import RunConfig
from malmm.train.schedule import DataOrder, learning_rate, parameter_groups


def test_first_epoch_warms_up_linearly_and_stays() -> None:
    run = RunConfig(init_lr=1e-4, warmup_lr=1e-8, warmup_steps=1000, max_epoch=20)
    for step in (0, 1, 21, 500, 999, 1000, 5000):
        expected = min(1e-4, 1e-8 + (1e-4 - 1e-8) * step / 1000)
        assert learning_rate(run, 0, step) == pytest.approx(expected, rel=1e-12)


def test_later_epochs_have_one_rate_each_on_the_cosine() -> None:
    run = RunConfig(init_lr=1e-4, warmup_lr=1e-8, warmup_steps=1000, max_epoch=20)
    for epoch in range(1, 20):
        expected = 1e-4 * 0.5 * (1 + math.cos(math.pi * epoch / 20))
        for step in (0, 7, 2000):
            assert learning_rate(run, epoch, step) == pytest.approx(expected, rel=1e-12)


def test_the_cosine_ends_at_min_lr_and_a_negative_warmup_lr_means_none() -> None:
    run = RunConfig(init_lr=1.0, min_lr=0.2, warmup_lr=-1, max_epoch=4)
    assert learning_rate(run, 0, 0) == 1.0
    assert learning_rate(run, 2, 0) == pytest.approx(0.6)
    assert learning_rate(run, 4, 0) == pytest.approx(0.2)


def test_decay_spares_vectors_and_named_tensors() -> None:
    def tensor(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.zeros(shape))

    named = {
        "imagebind_fc.weight": tensor(2, 2), "turn_pe.weight": tensor(11, 2), "imagebind_fc.bias": tensor(2),
        "scale": tensor(2), "ln_vision.table": tensor(2, 2), "bn.table": tensor(2, 2),
        "bias_table": tensor(2, 2),
    }  # fmt: skip
    decayed, plain = parameter_groups(named.items(), 0.05)
    assert decayed["weight_decay"] == 0.05
    assert decayed["params"] == [named["imagebind_fc.weight"], named["turn_pe.weight"]]
    assert plain["weight_decay"] == 0.0
    assert len(plain["params"]) == 5  # type: ignore[arg-type]


@given(
    size=st.integers(1, 40),
    batch=st.integers(1, 5),
    accumulate=st.integers(1, 3),
    world=st.integers(1, 3),
    epoch=st.integers(0, 3),
)
def test_every_step_has_the_same_dialogues_however_they_are_divided(
    size: int, batch: int, accumulate: int, world: int, epoch: int
) -> None:
    per_step = batch * accumulate * world
    whole = DataOrder(size, RunConfig(batch_size_train=per_step)).epoch(epoch)
    run = RunConfig(batch_size_train=batch, accum_grad_iters=accumulate)
    shares = [DataOrder(size, run, rank, world).epoch(epoch) for rank in range(world)]
    assert len(whole) == math.ceil(size / per_step)
    for step, (dialogues,) in enumerate(whole):
        batches = [one for share in shares for one in share[step]]
        assert sorted(i for one in batches for i in one) == sorted(dialogues)
        assert all(0 < len(one) <= batch for one in batches)
        assert all(len(share[step]) <= accumulate for share in shares)
    assert sorted(i for (dialogues,) in whole for i in dialogues) == list(range(size))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[list[int]]]:
        return DataOrder(50, RunConfig(seed=seed)).epoch(epoch)

    torch.manual_seed(1)
    first = order(3, 1)
    torch.manual_seed(2)
    assert first == order(3, 1)
    assert first != order(3, 2)
    assert first != order(4, 1)
