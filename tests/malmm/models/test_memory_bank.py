"""The compression against MA-LMM's own numbers, and what must hold for any bank."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from malmm.models.memory_bank import MemoryBank, compress, merge, most_similar_pair

CASES = ["rand0", "rand1", "rand2", "rand3", "sized0", "sized1", "sized2", "sized3", "walk", "tie_onehot"]
CASES += ["tie_onehot_sized", "dup_pair", "all_zero", "some_zero", "all_negative", "t2", "scale_mix"]
QUIET = settings(deadline=None)  # a busy machine is no failure
EXACT_TIES = {"tie_onehot", "tie_onehot_sized", "all_zero"}  # the first of several equal pairs must be taken


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "parity/malmm/memory_bank_compress.safetensors")


def test_every_case_is_listed(shared: Path) -> None:
    cases = json.loads((shared / "parity/malmm/memory_bank_compress.json").read_text())
    assert set(cases) == {*CASES, "stream"}


@pytest.mark.parametrize("case", CASES)
def test_upstream_case(reference: dict[str, Tensor], case: str) -> None:
    bank, sizes = reference[f"{case}.bank"], reference[f"{case}.sizes"]
    given_bank, given_sizes = bank.clone(), sizes.clone()
    out, out_sizes = compress(bank, sizes)
    decided = reference[f"{case}.margin"] > (-1 if case in EXACT_TIES else 1e-5)  # [B, N]
    assert torch.equal(most_similar_pair(bank)[decided], reference[f"{case}.merge_index"][decided])
    torch.testing.assert_close(out, reference[f"{case}.bank_out"], rtol=1e-5, atol=1e-6)
    assert torch.equal(out_sizes, reference[f"{case}.sizes_out"])
    assert torch.equal(bank, given_bank) and torch.equal(sizes, given_sizes)  # inputs stay as they are


def test_upstream_stream(reference: dict[str, Tensor]) -> None:
    """40 frames through a bank of 5: every merge, all sizes after every frame, the bank at five of them."""
    frames, length = reference["stream.frames"], 5
    bank = MemoryBank.empty(frames[:, 0]).append(frames[:, 0])
    snapshots = 0
    for t in range(1, frames.shape[1]):
        bank = bank.append(frames[:, t])
        index, margin = reference["stream.merge_index"][t - 1], reference["stream.margin"][t - 1]
        if bank.slots.shape[1] > length:
            decided = margin > 1e-5
            assert torch.equal(most_similar_pair(bank.slots)[decided], index[decided])
        else:
            assert (index == -1).all()
        bank = bank.fit(length)
        sizes = reference["stream.sizes_all"][t - 1][:, : bank.sizes.shape[1]]
        assert torch.equal(bank.sizes, sizes)
        assert (bank.sizes.sum(1) == t + 1).all()
        if f"stream.bank_t{t}" in reference:
            snapshots += 1
            torch.testing.assert_close(bank.slots, reference[f"stream.bank_t{t}"], rtol=1e-5, atol=1e-6)
            assert torch.equal(bank.sizes, reference[f"stream.sizes_t{t}"])
    assert snapshots == 5


@st.composite
def banks(draw: st.DrawFn, min_width: int = 1) -> tuple[Tensor, Tensor]:
    """A bank [B, K, N, C] in float64 with some zero rows, and whole sizes from 1 to 9."""
    batch, slots, tokens = draw(st.integers(1, 3)), draw(st.integers(2, 7)), draw(st.integers(1, 4))
    width = draw(st.integers(min_width, min_width + 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    bank = torch.randn(batch, slots, tokens, width, generator=generator, dtype=torch.float64)
    bank = bank * 10.0 ** draw(st.integers(-3, 3))
    if draw(st.booleans()):
        bank = bank * (torch.rand(batch, slots, tokens, 1, generator=generator) > 0.3)
    sizes = torch.randint(1, 10, (batch, slots, tokens), generator=generator).double()
    return bank, sizes


@QUIET
@given(banks())
def test_sizes_keep_their_sum_and_slots_their_order(case: tuple[Tensor, Tensor]) -> None:
    bank, sizes = case
    pair = most_similar_pair(bank)
    out, out_sizes = compress(bank, sizes)
    assert torch.equal(out_sizes.sum(1), sizes.sum(1))
    batch, _, tokens, _ = bank.shape
    for b in range(batch):
        for n in range(tokens):
            j = int(pair[b, n])
            assert torch.equal(out[b, :j, n], bank[b, :j, n])
            assert torch.equal(out[b, j + 1 :, n], bank[b, j + 2 :, n])
            assert out_sizes[b, :, n].tolist() == [
                *sizes[b, :j, n].tolist(),
                float(sizes[b, j, n] + sizes[b, j + 1, n]),
                *sizes[b, j + 2 :, n].tolist(),
            ]
            old, new = sizes[b, j, n], sizes[b, j + 1, n]
            mean = (old * bank[b, j, n] + new * bank[b, j + 1, n]) / (old + new)
            torch.testing.assert_close(out[b, j, n], mean, rtol=1e-9, atol=1e-9)


@QUIET
@given(banks())
def test_results_lie_between_the_rows_that_made_them(case: tuple[Tensor, Tensor]) -> None:
    bank, sizes = case
    out, _ = compress(bank, sizes)
    slack = 1e-12 * bank.abs().max()
    low, high = torch.minimum(bank[:, :-1], bank[:, 1:]), torch.maximum(bank[:, :-1], bank[:, 1:])
    assert (out >= low - slack).all() and (out <= high + slack).all()


@QUIET
@given(banks(), st.randoms())
def test_batch_elements_and_positions_do_not_know_each_other(case: tuple[Tensor, Tensor], random) -> None:
    bank, sizes = case
    out, out_sizes = compress(bank, sizes)
    batch = random.sample(range(bank.shape[0]), bank.shape[0])
    token = random.sample(range(bank.shape[2]), bank.shape[2])
    shuffled, shuffled_sizes = compress(bank[batch][:, :, token], sizes[batch][:, :, token])
    torch.testing.assert_close(shuffled, out[batch][:, :, token], rtol=1e-12, atol=0)
    assert torch.equal(shuffled_sizes, out_sizes[batch][:, :, token])
    alone, alone_sizes = compress(bank[:1, :, :1], sizes[:1, :, :1])
    torch.testing.assert_close(alone, out[:1, :, :1], rtol=1e-12, atol=0)
    assert torch.equal(alone_sizes, out_sizes[:1, :, :1])


@QUIET
@given(banks(min_width=3), st.data())
def test_equal_neighbours_are_merged_and_keep_their_content(case: tuple[Tensor, Tensor], data) -> None:
    bank, sizes = case
    noise = torch.randn(bank.shape, generator=torch.Generator().manual_seed(0), dtype=bank.dtype)
    bank = torch.where(bank == 0, noise, bank)  # no second pair of equal rows
    twin = data.draw(st.integers(0, bank.shape[1] - 2))
    bank[:, twin + 1] = bank[:, twin]
    out, _ = compress(bank, sizes)
    rest = torch.cat([bank[:, : twin + 1], bank[:, twin + 2 :]], dim=1)
    torch.testing.assert_close(out, rest, rtol=1e-12, atol=0)


@settings(QUIET, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 15), st.integers(0, 2**31))
def test_a_bank_never_outgrows_its_length_and_accounts_for_every_frame(length: int, count: int, seed: int):
    frames = torch.randn(count, 2, 3, 4, generator=torch.Generator().manual_seed(seed))
    bank = MemoryBank.empty(frames[0])
    for frame in frames:
        bank = bank.append(frame).fit(length)
    assert bank.slots.shape == (2, min(length, count), 3, 4)
    for b in range(2):
        for n in range(3):
            slots = bank.frames(b, n)
            assert [t for slot in slots for t in slot] == list(range(count))
            expected = torch.stack([frames[slot, b, n].mean(0) for slot in slots])
            torch.testing.assert_close(bank.slots[b, :, n], expected)  # a slot is the mean of its frames


@pytest.mark.parametrize(
    ("dtype", "rtol"),
    [(torch.float16, 1e-3), (torch.bfloat16, 8e-3), (torch.float32, 1e-6), (torch.float64, 1e-12)],
)
def test_all_floating_types(dtype: torch.dtype, rtol: float) -> None:
    bank = torch.randn(2, 6, 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    bank[0, :, 0] = 0  # zero vectors: similarity 0, not NaN
    bank[1, :2, 1] *= 1e4 if dtype == torch.float16 else 1e6  # a float16 norm would overflow
    sizes = torch.randint(1, 300, (2, 6, 3), generator=torch.Generator().manual_seed(1)).float()
    out, out_sizes = compress(bank, sizes)
    exact, exact_sizes = compress(bank.double(), sizes.double())
    assert out.dtype == dtype and out_sizes.dtype == torch.float32
    assert torch.equal(most_similar_pair(bank), most_similar_pair(bank.double()))
    torch.testing.assert_close(out.double(), exact, rtol=rtol, atol=rtol * 1e-1)
    assert torch.equal(out_sizes.double(), exact_sizes)


def test_gradient_reaches_both_merged_slots_by_their_share() -> None:
    bank = torch.tensor([[[[1.0, 0.0]], [[1.0, 0.1]], [[0.0, 1.0]]]], requires_grad=True)  # [1, 3, 1, 2]
    out, _ = compress(bank, torch.tensor([[[1.0], [3.0], [1.0]]]))
    out.sum().backward()
    assert bank.grad is not None
    assert bank.grad[0, :, 0, 0].tolist() == [0.25, 0.75, 1.0]


def test_keys_merge_with_the_weights_of_what_they_were_made_from() -> None:
    """Projecting the merged bank is merging the projected bank: what makes cached keys exact."""
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(2, 5, 3, 8, generator=generator, dtype=torch.float64)
    sizes = torch.randint(1, 9, (2, 5, 3), generator=generator).double()
    projection = torch.nn.Linear(8, 4, dtype=torch.float64)
    merged, _ = compress(bank, sizes)
    merged_keys, _ = merge(projection(bank), sizes, most_similar_pair(bank))
    torch.testing.assert_close(projection(merged), merged_keys)


def test_misuse_is_named() -> None:
    one = torch.ones(1, 1, 2, 3)
    with pytest.raises(ValueError, match="K >= 2"):
        compress(one, torch.ones(1, 1, 2))
    with pytest.raises(ValueError, match="do not fit"):
        compress(torch.ones(1, 2, 2, 3), torch.ones(1, 2, 1))
    bank = MemoryBank.empty(one[:, 0]).append(one[:, 0])
    with pytest.raises(ValueError, match=r"shape \[2, 2, 3\] does not fit the memory bank"):
        bank.append(torch.ones(2, 2, 3))
