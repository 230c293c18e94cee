"""Slices of an extraction: several machines or GPUs each make some of a store's shards."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from extraction.errors import InputError


@dataclass(frozen=True)
class Slice:
    """Slice `index` of `of`: the shards whose number leaves `index` when divided by `of`."""

    index: int = 0
    of: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    @classmethod
    def parse(cls, text: str, where: str = "--shard") -> "Slice":
        """Read `I/N`, slices counted from 0. Raises InputError, calling it `where`, for anything else."""
        numbers = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if numbers and int(numbers[1]) < int(numbers[2]):
            return cls(int(numbers[1]), int(numbers[2]))
        raise InputError(f"{where} must be I/N, counted from 0, as 0/4, 1/4, 2/4 and 3/4 are, not {text!r}")

    @classmethod
    def of_process(cls) -> "Slice":
        """The slice of a process that torchrun started, as RANK and WORLD_SIZE say; without them, all."""
        rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
        return WHOLE if rank is None or size is None else cls.parse(f"{rank}/{size}", "RANK/WORLD_SIZE")

    def takes(self, shard: int) -> bool:
        """Tell whether the slice makes shard number `shard`."""
        return shard % self.of == self.index

    def folder(self, store: Path) -> Path:
        """The folder of the slice where all processes are given one and the same `store`."""
        return store if self == WHOLE else store.with_name(f"{store.name}-{self.index}-of-{self.of}")


WHOLE = Slice()
