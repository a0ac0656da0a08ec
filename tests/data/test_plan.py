from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.data.plan import IndexArray, WindowPlan, cut_by_tokens, padded_size, plan_micro_batches
from recipe_exp.errors import DataError

PLANS = st.builds(
    WindowPlan,
    num_examples=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 2**32),
    fingerprint=st.text(max_size=8),
)


class TestWindowPlan:
    @given(plan=PLANS, epoch=st.integers(0, 5))
    def test_every_epoch_takes_every_example_once(self, plan: WindowPlan, epoch: int) -> None:
        steps = range(epoch * plan.windows_per_epoch, (epoch + 1) * plan.windows_per_epoch)
        windows = [plan.window(step) for step in steps]
        assert {plan.epoch_of(step) for step in steps} == {epoch}
        assert sorted(np.concatenate(windows)) == list(range(plan.num_examples))
        assert all(len(window) == plan.batch_size for window in windows[:-1])
        assert 1 <= len(windows[-1]) <= plan.batch_size

    @given(plan=PLANS, steps=st.lists(st.integers(0, 200), min_size=1, max_size=6))
    def test_any_step_may_be_asked_for_in_any_order(self, plan: WindowPlan, steps: list[int]) -> None:
        walked = list(map(plan.window, range(max(steps) + 1)))
        fresh = WindowPlan(plan.num_examples, plan.batch_size, plan.seed, plan.fingerprint)
        for step in steps:
            np.testing.assert_array_equal(fresh.window(step), walked[step])

    def test_every_argument_and_the_epoch_change_the_order(self) -> None:
        plans = [
            WindowPlan(1000, 1000, 0, "a"),
            WindowPlan(1000, 1000, 1, "a"),
            WindowPlan(1000, 1000, 0, "b"),
        ]
        orders = [plan.window(step).tolist() for plan in plans for step in (0, 1)]
        halves = WindowPlan(1000, 500, 0, "a")
        orders.append([*halves.window(0).tolist(), *halves.window(1).tolist()])
        assert all(one != other for one, other in itertools.combinations(orders, 2))

    def test_the_permutation_is_uniform(self) -> None:
        counts = np.zeros((6, 6))
        num_epochs = 6000
        plan = WindowPlan(6, 6, 3, "uniform")
        for epoch in range(num_epochs):
            counts[np.arange(6), plan.window(epoch)] += 1
        expected = num_epochs / 6
        # Chi-squared with 25 degrees of freedom: 60 has a probability of 1e-4.
        assert ((counts - expected) ** 2 / expected).sum() < 60

    def test_the_order_is_the_same_on_every_machine_and_version(self) -> None:
        assert WindowPlan(10, 10, 42, "data").window(0).tolist() == [4, 9, 0, 2, 7, 5, 8, 3, 1, 6]

    def test_a_window_may_be_changed_without_harm(self) -> None:
        plan = WindowPlan(10, 5, 0, "data")
        before = plan.window(0).copy()
        plan.window(0)[:] = 0
        np.testing.assert_array_equal(plan.window(0), before)

    def test_a_far_step_costs_no_walk(self) -> None:
        plan = WindowPlan(10_000, 2, 0, "data")
        start = time.perf_counter()
        plan.window(10**12)
        assert time.perf_counter() - start < 0.5

    def test_a_batch_larger_than_the_data_is_one_window(self) -> None:
        plan = WindowPlan(3, 100, 0, "data")
        assert plan.windows_per_epoch == 1
        assert sorted(plan.window(5)) == [0, 1, 2]

    def test_nothing_to_learn_from_is_one_line(self) -> None:
        with pytest.raises(DataError, match="training split holds no example"):
            WindowPlan(0, 8, 0, "data")

    def test_nonsense_is_refused(self) -> None:
        with pytest.raises(ValueError, match="batch_size=0"):
            WindowPlan(3, 0, 0, "data")
        with pytest.raises(ValueError, match="step=-1"):
            WindowPlan(3, 1, 0, "data").window(-1)


LENGTHS = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 600)), min_size=1, max_size=40)


def arrays(lengths: list[tuple[int, int]]) -> tuple[IndexArray, IndexArray]:
    sources, targets = np.array(lengths, dtype=np.int64).T
    return sources, targets


class TestMicroBatches:
    @settings(deadline=None, max_examples=300)
    @given(lengths=LENGTHS, budget=st.integers(1, 4000), num_processes=st.integers(1, 9))
    def test_the_promises_of_a_plan(self, lengths: list[tuple[int, int]], budget: int, num_processes: int) -> None:
        sources, targets = arrays(lengths)
        hands = plan_micro_batches(sources, targets, budget, num_processes)
        parts = [part for hand in hands for part in hand]

        assert len(hands) == num_processes
        assert len({len(hand) for hand in hands}) == 1, "collective calls match"
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths))), "each position once"
        for part in parts:
            assert len(part) <= 1 or len(part) * (sources[part].max() + targets[part].max()) <= budget
        for round_ in zip(*hands, strict=True):
            assert any(len(part) for part in round_), "no round is empty for all"
            assert all(len(part) for part in round_) or all(len(part) <= 1 for part in round_), "none idles in vain"

        sizes = [[padded_size(part, sources, targets) for part in hand] for hand in hands]
        loads = [sum(hand) for hand in sizes]
        assert max(loads) - min(loads) <= max(max(hand) for hand in sizes), "work is balanced"
        assert all(hand == sorted(hand, reverse=True) for hand in sizes), "the largest comes first"

    @settings(deadline=None)
    @given(lengths=LENGTHS, budget=st.integers(1, 4000), num_processes=st.integers(1, 5))
    def test_equal_arguments_give_equal_plans(
        self, lengths: list[tuple[int, int]], budget: int, num_processes: int
    ) -> None:
        sources, targets = arrays(lengths)
        plans = [
            plan_micro_batches(sources.astype(dtype), targets.astype(dtype), budget, num_processes)
            for dtype in (np.int64, np.int32)
        ]
        assert [[part.tolist() for part in hand] for hand in plans[0]] == [
            [part.tolist() for part in hand] for hand in plans[1]
        ]

    @settings(deadline=None, max_examples=100)
    @given(
        lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 60)), min_size=1, max_size=9),
        budget=st.integers(1, 400),
    )
    def test_no_other_cut_of_the_sorted_row_is_cheaper(self, lengths: list[tuple[int, int]], budget: int) -> None:
        sources, targets = arrays(lengths)

        def cost(parts: list[IndexArray]) -> float:
            sizes = [padded_size(part, sources, targets) for part in parts]
            if any(len(part) > 1 and size > budget for part, size in zip(parts, sizes, strict=True)):
                return float("inf")
            return sum(sizes) + len(parts) * budget / 16

        order = np.lexsort((sources, targets))
        every_cut = (
            cost(np.split(order, np.flatnonzero(cuts) + 1)) for cuts in itertools.product([0, 1], repeat=len(order) - 1)
        )
        assert cost(cut_by_tokens(sources, targets, budget)) == pytest.approx(min(every_cut))

    def test_lengths_are_sorted_so_that_padding_is_small(self) -> None:
        rng = np.random.default_rng(0)
        targets = rng.integers(20, 500, 256)
        sources = targets // 3 + rng.integers(1, 20, 256)
        parts = plan_micro_batches(sources, targets, 8192, 1)[0]
        padded = sum(padded_size(part, sources, targets) for part in parts)
        assert 1 - (sources + targets).sum() / padded < 0.1

    def test_one_micro_batch_is_divided_over_all_processes(self) -> None:
        hands = plan_micro_batches([10] * 8, [20] * 8, 10_000, 4)
        assert [[len(part) for part in hand] for hand in hands] == [[2]] * 4

    def test_a_window_smaller_than_the_processes_leaves_some_idle(self) -> None:
        hands = plan_micro_batches([10, 10], [20, 20], 10_000, 3)
        assert sorted(len(part) for (part,) in hands) == [0, 1, 1]

    def test_no_window_is_no_micro_batch(self) -> None:
        assert plan_micro_batches([], [], 100, 3) == [[], [], []]

    @pytest.mark.parametrize("num_processes", [2, 4, 8])
    def test_processes_seldom_wait_for_each_other(self, num_processes: int) -> None:
        rng = np.random.default_rng(0)
        busy = elapsed = 0
        for _ in range(20):
            targets = rng.integers(50, 500, 64)
            sources = targets // 3 + rng.integers(1, 50, 64)
            hands = plan_micro_batches(sources, targets, 8192, num_processes)
            sizes = [[padded_size(part, sources, targets) for part in hand] for hand in hands]
            busy += sum(map(sum, sizes))
            elapsed += num_processes * sum(map(max, zip(*sizes, strict=True)))
        assert busy / elapsed > 0.9

    def test_an_example_over_the_budget_is_alone(self) -> None:
        (parts,) = plan_micro_batches([5, 5, 5], [5, 500, 5], 20, 1)
        assert sorted(map(len, parts)) == [1, 2]
        assert [1] in [part.tolist() for part in parts]

    def test_a_large_window_is_planned_in_time(self) -> None:
        rng = np.random.default_rng(0)
        start = time.perf_counter()
        plan_micro_batches(rng.integers(10, 256, 4096), rng.integers(10, 512, 4096), 16384, 8)
        assert time.perf_counter() - start < 2.0
