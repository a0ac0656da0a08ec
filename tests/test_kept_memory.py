"""Kept memory: never two tensors in one place, handed out again once a tensor is gone, and nothing for small ones."""

from __future__ import annotations

import gc
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recipe_exp import kept_memory
from recipe_exp.hardware.memory import OutOfMemoryError, out_of_memory_noticed, release_memory
from recipe_exp.models.chunked_cross_entropy import summed_cross_entropy
from recipe_exp.models.unpadded.functions import embedded

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    kept_memory.release()
    yield
    kept_memory.release()


@pytest.fixture
def small_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_memory, "MIN_KEPT_BYTES", 1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 5000), st.sampled_from([torch.float32, torch.bfloat16]), st.booleans())))
def test_tensors_that_are_there_at_the_same_time_share_nothing(requests: list[tuple[int, torch.dtype, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_memory, "MIN_KEPT_BYTES", 1)
        alive: list[tuple[torch.Tensor, int]] = []
        for number, (size, dtype, lets_go) in enumerate(requests):
            tensor = kept_memory.empty([size], dtype=dtype, device=CPU)
            assert (tensor.shape, tensor.dtype, tensor.data_ptr() % 64) == ((size,), dtype, 0)
            alive.append((tensor.fill_(number % 128), number % 128))
            del tensor
            if lets_go:
                del alive[number % len(alive)]
        for tensor, value in alive:
            assert bool((tensor == value).all())


@pytest.mark.usefixtures("small_blocks_too")
def test_a_part_that_is_left_keeps_the_whole_place() -> None:
    tensor = kept_memory.empty([4, 100], dtype=torch.float32, device=CPU)
    row, place = tensor[2].detach(), tensor.data_ptr()
    del tensor
    assert kept_memory.empty([4, 100], dtype=torch.float32, device=CPU).data_ptr() != place
    del row
    gc.collect()
    places = [kept_memory.empty([400], dtype=torch.float32, device=CPU) for _ in range(2)]
    assert place in [tensor.data_ptr() for tensor in places]


_COUNT_FAULTS = """
import resource
import torch
from recipe_exp import kept_memory

def num_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept_memory.empty([40 * 2**20], dtype=torch.uint8, device=torch.device("cpu")).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(*(num_faults() for _ in range(4)))
"""


def test_the_pages_of_a_large_tensor_are_fetched_once() -> None:
    # The count is of a whole process, and a test runner's has threads of its own.
    answer = subprocess.run([sys.executable, "-c", _COUNT_FAULTS], capture_output=True, text=True, check=True)
    first, *later = [int(word) for word in answer.stdout.split()]
    assert max(later) < first / 10


def test_a_small_tensor_is_none_of_its_business() -> None:
    kept_memory.empty([31 * MIB], dtype=torch.uint8, device=CPU)
    assert not kept_memory._free


def test_what_is_kept_is_handed_back() -> None:
    lent = kept_memory.empty([32 * MIB], dtype=torch.uint8, device=CPU)
    kept_memory.empty([32 * MIB], dtype=torch.uint8, device=CPU)
    assert [len(blocks) for blocks in kept_memory._free.values()] == [1]
    release_memory()
    del lent
    assert not kept_memory._free


def test_too_large_a_tensor_is_memory_that_is_full() -> None:
    with pytest.raises(OutOfMemoryError), out_of_memory_noticed():
        kept_memory.empty([2**60], dtype=torch.uint8, device=CPU)


@pytest.mark.usefixtures("small_blocks_too")
def test_gradients_lie_in_it_and_are_right_however_many_add_up() -> None:
    torch.manual_seed(0)
    table, head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
    ids, labels = torch.randint(0, 50, (3, 40)), torch.randint(0, 50, (3, 40))

    def learn(is_kept: bool) -> list[torch.Tensor]:
        for module in (table, head):
            module.zero_grad(set_to_none=True)
        for part, wanted in zip(ids, labels, strict=True):
            rows = embedded(table.weight, part) if is_kept else table(part)
            if is_kept:
                loss = summed_cross_entropy(rows, head, wanted)
            else:
                loss = nn.functional.cross_entropy(head(rows), wanted, reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
        assert table.weight.grad is not None
        assert head.weight.grad is not None
        return [table.weight.grad, head.weight.grad]

    wanted = [gradient.clone() for gradient in learn(False)]
    for _ in range(3):
        for mine, theirs in zip(learn(True), wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    places = {gradient.data_ptr() for gradient in learn(True)}
    for module in (table, head):
        module.zero_grad(set_to_none=True)
    blocks = [block for blocks in kept_memory._free.values() for block in blocks]
    assert places <= {block.ctypes.data + -block.ctypes.data % 64 for block in blocks}


_FREE_AND_FILL_AGAIN = """
import ctypes
import resource

import torch
from recipe_exp import kept_memory

def resident_pages():
    return int(open("/proc/self/statm").read().split()[1])

# Without more, what is free at the end goes back, unless something happens to lie above it.
ctypes.CDLL(None).mallopt(-3, 32 * 2**20)
ctypes.CDLL(None).mallopt(-1, 0)
kept_memory.keep_what_is_freed()
counts = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.empty(8 * 2**20, dtype=torch.uint8).fill_(1) for _ in range(30)]
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    del tensors
held = resident_pages()
kept_memory.release()
print(counts[-1], held - resident_pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_what_smaller_tensors_let_go_of_is_kept_until_it_is_released() -> None:
    done = subprocess.run([sys.executable, "-c", _FREE_AND_FILL_AGAIN], check=True, capture_output=True, text=True)
    faults, released = map(int, done.stdout.split())
    num_pages = 240 * MIB // resource.getpagesize()
    assert faults < num_pages / 20
    assert released > 0.9 * num_pages
