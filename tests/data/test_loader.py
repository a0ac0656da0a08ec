from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from recipe_exp.data import loader as loader_module
from recipe_exp.data.loader import (
    MicroBatch,
    Window,
    WindowLoader,
    dropout_keys,
    evaluation_batches,
    make_micro_batch,
    make_window,
)
from recipe_exp.data.plan import WindowPlan, plan_micro_batches
from recipe_exp.data.tokens.token_files import TokenSplit, token_bytes

PAD = 0
NUM_EXAMPLES = 37


def sources_and_targets() -> tuple[list[list[int]], list[list[int]]]:
    rng = np.random.default_rng(7)

    def texts(longest: int) -> list[list[int]]:
        lengths = rng.integers(1, longest, NUM_EXAMPLES)
        # Zeros are there on purpose: the pad id inside a text is a token like any other.
        return [[*rng.integers(0, 65_535, length).tolist(), 1] for length in lengths]

    return texts(20), texts(50)


@pytest.fixture
def split(tmp_path: Path) -> TokenSplit:
    sources, targets = sources_and_targets()
    first = token_bytes([sources[:10]], targets[:10], 0)
    num_tokens = sum(map(len, [*sources[:10], *targets[:10]]))
    for name, content in token_bytes([sources[10:]], targets[10:], num_tokens).items():
        (tmp_path / name).write_bytes(first[name] + content)
    return TokenSplit(tmp_path, PAD)


@pytest.fixture
def plan() -> WindowPlan:
    return WindowPlan(NUM_EXAMPLES, 8, 0, "data")


def examples_of(batch: MicroBatch) -> list[tuple[int, list[int], list[int]]]:
    sources = batch.source_ids.split(batch.source_lengths.tolist())
    targets = batch.target_ids.split(batch.target_lengths.tolist())
    return [
        (index, source.tolist(), target.tolist())
        for index, source, target in zip(batch.indices.tolist(), sources, targets, strict=True)
    ]


def test_tokens_come_back_as_they_were_written(split: TokenSplit) -> None:
    sources, targets = sources_and_targets()
    assert len(split) == NUM_EXAMPLES
    assert [split.source(index).tolist() for index in range(len(split))] == sources
    assert [split.target(index).tolist() for index in range(len(split))] == targets
    assert split.source(0).dtype == np.uint16
    assert split.source_lengths.dtype == split.target_lengths.dtype == np.int32
    assert not split.source(0).flags.owndata, "a view, not a copy"
    with pytest.raises(IndexError):
        split.source(-1)
    with pytest.raises(IndexError):
        split.target(NUM_EXAMPLES)


def test_a_micro_batch_holds_exactly_its_examples(split: TokenSplit) -> None:
    sources, targets = sources_and_targets()
    batch = make_micro_batch(split, [3, 30, 11])
    assert examples_of(batch) == [(index, sources[index], targets[index]) for index in (3, 30, 11)]
    assert batch.source_ids.dtype == batch.target_ids.dtype == torch.int64
    assert batch.source_keys.shape == batch.source_ids.shape
    assert batch.target_keys.shape == batch.target_ids.shape
    assert batch.num_target_tokens == sum(len(targets[i]) for i in (3, 30, 11))
    assert batch.num_tokens == batch.num_target_tokens + sum(len(sources[i]) for i in (3, 30, 11))


def test_rows_of_equal_length_hold_the_same_texts(split: TokenSplit) -> None:
    batch = make_micro_batch(split, [3, 30, 11])
    input_ids, attention_mask, labels = batch.padded(PAD)
    assert input_ids.dtype == attention_mask.dtype == labels.dtype == torch.int64
    for row, (_, source, target) in enumerate(examples_of(batch)):
        assert input_ids[row].tolist() == [*source, *[PAD] * (input_ids.shape[1] - len(source))]
        assert attention_mask[row].tolist() == [1] * len(source) + [0] * (input_ids.shape[1] - len(source))
        assert labels[row].tolist() == [*target, *[-100] * (labels.shape[1] - len(target))]
    assert input_ids.shape[1] == batch.source_lengths.max()
    assert labels.shape[1] == batch.target_lengths.max()


def keys_by_example(
    split: TokenSplit, plan: WindowPlan, step: int, budget: int, num_processes: int
) -> dict[int, bytes]:
    """Returns the keys of dropout of each example of a window, over all processes."""
    found: dict[int, bytes] = {}
    for process in range(num_processes):
        for batch in make_window(split, plan, step, budget, process, num_processes).micro_batches:
            parts = zip(
                batch.source_keys.split(batch.source_lengths.tolist()),
                batch.target_keys.split(batch.target_lengths.tolist()),
                strict=True,
            )
            for index, (source, target) in zip(batch.indices.tolist(), parts, strict=True):
                keys = source.numpy().tobytes() + target.numpy().tobytes()
                assert found.setdefault(index, keys) == keys
    return found


@pytest.mark.parametrize(("budget", "num_processes"), [(60, 1), (400, 3), (10**6, 11)])
def test_a_token_has_the_same_dropout_however_its_window_is_cut(
    split: TokenSplit, plan: WindowPlan, budget: int, num_processes: int
) -> None:
    assert keys_by_example(split, plan, 4, budget, num_processes) == keys_by_example(split, plan, 4, 10**6, 1)


def test_dropout_differs_between_seeds_steps_examples_and_places() -> None:
    noises = [(0, 0), (0, 1), (1, 0), (2**63, 5)]
    drawn = torch.cat([dropout_keys(noise, np.arange(50), np.full(50, 40)) for noise in noises])
    assert drawn.dtype == torch.int32
    # Of 8,000 numbers of 32 bits, two are equal by chance with a probability below a percent.
    assert len(drawn.unique()) >= len(drawn) - 1
    bits = (drawn[:, None] >> torch.arange(32)) & 1
    assert ((bits.float().mean(dim=0) - 0.5).abs() < 0.03).all(), "every bit is a fair coin"
    assert not dropout_keys(None, np.arange(2), np.array([3, 4])).any()


@pytest.mark.parametrize("num_processes", [1, 2, 5, 11])
@pytest.mark.parametrize("budget", [60, 400, 10**6])
def test_all_processes_together_hold_the_window(
    split: TokenSplit, plan: WindowPlan, num_processes: int, budget: int
) -> None:
    sources, targets = sources_and_targets()
    for step in (0, 4, 5):
        windows = [make_window(split, plan, step, budget, index, num_processes) for index in range(num_processes)]
        batches = [batch for window in windows for batch in window.micro_batches]
        real = [example for batch in batches if not batch.is_dummy for example in examples_of(batch)]
        wanted = plan.window(step).tolist()

        assert sorted(real) == sorted((index, sources[index], targets[index]) for index in wanted)
        assert len({len(window.micro_batches) for window in windows}) == 1
        for window in windows:
            assert (window.step, window.epoch, window.num_examples) == (step, plan.epoch_of(step), len(wanted))
            assert window.num_source_tokens == sum(len(sources[index]) for index in wanted)
            assert window.num_target_tokens == sum(len(targets[index]) for index in wanted)
            assert window.num_target_tokens == sum(batch.num_target_tokens for batch in batches)
            assert window.num_computed_tokens == sum(batch.num_tokens for batch in batches)


def test_a_stand_in_is_a_real_example_that_counts_no_token(split: TokenSplit) -> None:
    plan = WindowPlan(NUM_EXAMPLES, 2, 0, "data")
    windows = [make_window(split, plan, 0, 1000, index, 3) for index in range(3)]
    (stand_in,) = [batch for window in windows for batch in window.micro_batches if batch.is_dummy]
    assert stand_in.num_target_tokens == 0
    assert set(stand_in.indices) < set(plan.window(0))
    assert len(stand_in.target_ids) > 0


def same(one: Window, other: Window) -> bool:
    return [batch.indices.tolist() for batch in one.micro_batches] == [
        batch.indices.tolist() for batch in other.micro_batches
    ]


def test_the_loader_yields_the_plan_from_any_step_to_any_step(split: TokenSplit, plan: WindowPlan) -> None:
    with WindowLoader(split, plan, 400, 0, 1, start_step=3, end_step=12) as loader:
        windows = list(loader)
    assert [window.step for window in windows] == list(range(3, 12))
    assert all(same(window, make_window(split, plan, window.step, 400, 0, 1)) for window in windows)
    assert list(loader) == [], "an exhausted loader stays exhausted"


def test_no_step_is_no_window(split: TokenSplit, plan: WindowPlan) -> None:
    assert list(WindowLoader(split, plan, 400, 0, 1, start_step=5, end_step=5)) == []


def test_windows_are_prepared_ahead_and_not_too_far(
    split: TokenSplit, plan: WindowPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[int] = []

    def record(*arguments: object, **settings: object) -> Window:
        window = make_window(*arguments, **settings)  # type: ignore[arg-type]
        prepared.append(window.step)
        return window

    monkeypatch.setattr(loader_module, "make_window", record)
    with WindowLoader(split, plan, 400, 0, 1, 0, 100, prefetch=2) as loader:
        assert next(loader).step == 0
        wait_until(lambda: len(prepared) == 4)
        time.sleep(0.05)
        assert prepared == [0, 1, 2, 3], "one in use, two ready, one in hand"


def test_an_error_in_the_thread_reaches_the_consumer(
    split: TokenSplit, plan: WindowPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_at_two(*arguments: object, **settings: object) -> Window:
        if arguments[2] == 2:
            raise OSError("the disk is gone")
        return make_window(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(loader_module, "make_window", break_at_two)
    loader = WindowLoader(split, plan, 400, 0, 1, 0, 10)
    assert [next(loader).step, next(loader).step] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(loader)
    assert list(loader) == []
    assert loader_threads() == []


def test_closing_early_ends_the_thread(split: TokenSplit, plan: WindowPlan) -> None:
    loader = WindowLoader(split, plan, 400, 0, 1, 0, 10**9)
    next(loader)
    loader.close()
    loader.close()
    assert loader_threads() == []
    assert list(loader) == []


def test_a_loader_that_is_dropped_ends_its_thread(split: TokenSplit, plan: WindowPlan) -> None:
    loader = WindowLoader(split, plan, 400, 0, 1, 0, 10**9)
    next(loader)
    assert loader_threads()
    del loader
    gc.collect()
    wait_until(lambda: loader_threads() == [])


def test_a_loader_needs_room_for_a_window(split: TokenSplit, plan: WindowPlan) -> None:
    with pytest.raises(ValueError, match="prefetch=0"):
        WindowLoader(split, plan, 400, 0, 1, 0, 1, prefetch=0)


PROMPT_WEIGHTS = (0.2, 0.3, 0.5)


@pytest.fixture
def mixed_split(tmp_path: Path) -> TokenSplit:
    """Every example with three sources of different lengths."""
    _, targets = sources_and_targets()
    for name, content in token_bytes(mixed_sources(), targets, 0).items():
        (tmp_path / name).write_bytes(content)
    return TokenSplit(tmp_path, PAD, num_prompts=3)


def mixed_sources() -> list[list[list[int]]]:
    """For each prompt the source of each example."""
    sources, _ = sources_and_targets()
    return [[[prompt + 2] * (5 * prompt) + ids for ids in sources] for prompt in range(3)]


@pytest.mark.parametrize("num_processes", [1, 2, 5])
@pytest.mark.parametrize("budget", [60, 400, 10**6])
def test_each_example_comes_with_the_prompt_that_the_plan_drew(
    mixed_split: TokenSplit, num_processes: int, budget: int
) -> None:
    sources, (_, targets) = mixed_sources(), sources_and_targets()
    plan = WindowPlan(NUM_EXAMPLES, 8, 0, "data", PROMPT_WEIGHTS)
    seen = set()
    for step in (0, 4, 5, 12):
        windows = [make_window(mixed_split, plan, step, budget, index, num_processes) for index in range(num_processes)]
        batches = [batch for window in windows for batch in window.micro_batches]
        real = [example for batch in batches if not batch.is_dummy for example in examples_of(batch)]
        drawn = list(zip(plan.window(step).tolist(), plan.prompts(step).tolist(), strict=True))
        seen |= {prompt for _, prompt in drawn}

        assert sorted(real) == sorted((index, sources[prompt][index], targets[index]) for index, prompt in drawn)
        for window in windows:
            assert window.num_source_tokens == sum(len(sources[prompt][index]) for index, prompt in drawn)
            assert window.num_computed_tokens == sum(batch.num_tokens for batch in batches)
        for batch in batches:
            assert batch.num_tokens <= budget or len(batch.indices) == 1
    assert seen == {0, 1, 2}


def test_micro_batches_are_cut_by_the_lengths_of_the_drawn_prompts(mixed_split: TokenSplit) -> None:
    plan = WindowPlan(NUM_EXAMPLES, NUM_EXAMPLES, 0, "data", PROMPT_WEIGHTS)
    window = make_window(mixed_split, plan, 0, 300, 0, 1)
    order, drawn = plan.window(0), plan.prompts(0)
    lengths = mixed_split.all_source_lengths[order, drawn]
    hands = plan_micro_batches(lengths, mixed_split.target_lengths[order], 300, 1)
    assert [batch.indices.tolist() for batch in window.micro_batches] == [order[part].tolist() for part in hands[0]]


def test_a_stand_in_has_the_prompt_of_its_example(mixed_split: TokenSplit) -> None:
    plan = WindowPlan(NUM_EXAMPLES, 2, 0, "data", PROMPT_WEIGHTS)
    sources = mixed_sources()
    for step in range(8):
        drawn = dict(zip(plan.window(step).tolist(), plan.prompts(step).tolist(), strict=True))
        windows = [make_window(mixed_split, plan, step, 1000, index, 3) for index in range(3)]
        for batch in (batch for window in windows for batch in window.micro_batches):
            for index, source, _ in examples_of(batch):
                assert source == sources[drawn[index]][index]


def test_one_prompt_is_read_where_none_is_named(mixed_split: TokenSplit) -> None:
    sources = mixed_sources()
    assert [source for _, source, _ in examples_of(make_micro_batch(mixed_split, [3, 1]))] == [
        sources[0][3],
        sources[0][1],
    ]
    assert [source for _, source, _ in examples_of(make_micro_batch(mixed_split, [3, 1], [2, 2]))] == [
        sources[2][3],
        sources[2][1],
    ]


@pytest.mark.parametrize("chunk", [4096, 5])
def test_evaluation_takes_every_example_once_within_the_budget(
    split: TokenSplit, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "_EVALUATION_CHUNK", chunk)
    sources, targets = sources_and_targets()
    wanted = list(range(1, NUM_EXAMPLES, 2))
    batches = list(evaluation_batches(split, wanted, 200))
    found = [example for batch in batches for example in examples_of(batch)]
    assert sorted(found) == [(index, sources[index], targets[index]) for index in wanted]
    assert all(batch.num_tokens <= 200 or len(batch.indices) == 1 for batch in batches)
    assert list(evaluation_batches(split, [], 200)) == []


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "window-loader"]


def wait_until(condition: object, seconds: float = 5.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
