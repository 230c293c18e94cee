"""What `make results` trains and evaluates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Dialogues to finetune and to evaluate on, passes over the former, and the seeds of each training."""

    train: int = 500
    val: int = 200
    epochs: int = 4
    seeds: tuple[int, ...] = (42, 43, 44)
    learning_rate: float = 5e-3  # better than 1e-3 where steps are few


QUICK = Sizes(train=16, val=8, epochs=1, seeds=(42, 43))  # the same steps in half a minute, for tests


@dataclass(frozen=True)
class Variation:
    """A model whose two layers start fresh: what differs from configs/tasks/finetune_visdial.yaml.

    trained: False leaves the layers at their random values.
    """

    name: str
    slug: str
    options: dict[str, Any]
    trained: bool = True


VARIATIONS = (
    Variation("random fc and turn_pe", "random", {}, trained=False),
    Variation("fc", "fc", {"model.trainable": ["imagebind_fc"]}),
    Variation("fc + turn_pe", "fc_turn_pe", {}),
    Variation("fc + turn_pe, without the bank", "no_bank", {"model.memory_bank_length": 0}),
)

# The control of the default that is trained from nothing without the bank. An hour of work, so that it is
# evaluated where it was made before and said to be missing where it was not.
NO_BANK = "the default's recipe without the bank"
NO_BANK_WEIGHTS = Path("outputs/no-bank")
NO_BANK_COMMAND = (
    "python -m malmm train-tiny --memory-bank-length 0 --no-gates "
    f"--work outputs/train-tiny-no-bank --out {NO_BANK_WEIGHTS}"
)

# The targets that the embedded default was given, in points of exact match.
DIRECT_TARGET, BACK_TARGET, PICTURES_TARGET, HISTORY_TARGET = 85.0, 70.0, 35.0, 15.0
