"""Which shards a slice has, and how it is named."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extraction.errors import InputError
from extraction.slices import WHOLE, Slice


@given(st.integers(1, 9), st.integers(0, 40))
def test_every_shard_is_in_exactly_one_slice_and_slices_are_alike(of: int, shards: int) -> None:
    taken = [[k for k in range(shards) if Slice(i, of).takes(k)] for i in range(of)]
    assert sorted(itertools.chain.from_iterable(taken)) == list(range(shards))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


@given(st.integers(0, 99), st.integers(1, 99))
def test_what_is_written_is_read(index: int, more: int) -> None:
    part = Slice(index, index + more)
    assert Slice.parse(str(part)) == part


@pytest.mark.parametrize(
    "text", ["", "1", "2/2", "-1/2", "0/0", "1/2/3", "a/b", "0 / 2", "٠/٢", "0/2\n", "9" * 99]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--shard must be I/N, counted from 0, as 0/4"):
        Slice.parse(text)


def test_torchruns_processes_have_a_slice_and_a_folder_each(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    assert Slice.of_process() == WHOLE
    monkeypatch.setenv("RANK", "2")
    assert Slice.of_process() == WHOLE
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Slice.of_process() == Slice(2, 4)
    assert Slice(2, 4).folder(Path("out/store")) == Path("out/store-2-of-4")
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(InputError, match="RANK/WORLD_SIZE must be I/N"):
        Slice.of_process()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert Slice.of_process() == WHOLE
    assert WHOLE.folder(Path("out/store")) == Path("out/store")
