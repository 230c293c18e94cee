"""Random generators survive a checkpoint."""

import random
from pathlib import Path

import numpy as np
import torch

from malmm.train.state import random_state, set_random_state


def draw() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        float(torch.rand(())),
    ]


def test_generators_go_on_from_a_saved_state(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    draw()  # leaves half of a pair of normal numbers in python's and numpy's generators
    torch.save(random_state(), tmp_path / "state.pth")
    expected = [draw() for _ in range(3)]
    draw()
    set_random_state(torch.load(tmp_path / "state.pth", weights_only=True))
    assert [draw() for _ in range(3)] == expected
