from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.data.plan import IndexArray, Lengths, WindowPlan, cut_by_tokens, plan_micro_batches
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


class TestPrompts:
    WEIGHTS = (0.5, 0.3, 0.15, 0.05)

    def drawn(self, num_examples: int = 20_000, *, epoch: int = 0, batch_size: int = 512, seed: int = 0) -> IndexArray:
        """The prompt of each example of an epoch, in the order of the examples."""
        plan = WindowPlan(num_examples, batch_size, seed, "data", self.WEIGHTS)
        found = np.full(num_examples, -1)
        for step in range(epoch * plan.windows_per_epoch, (epoch + 1) * plan.windows_per_epoch):
            found[plan.window(step)] = plan.prompts(step)
        return found

    @pytest.mark.parametrize(("epoch", "seed"), [(0, 0), (1, 0), (7, 123)])
    def test_prompts_are_drawn_with_their_weights(self, epoch: int, seed: int) -> None:
        counts = np.bincount(self.drawn(epoch=epoch, seed=seed), minlength=4)
        expected = np.array(self.WEIGHTS) * 20_000
        # Chi-squared with 3 degrees of freedom: 21 has a probability of 1e-4.
        assert ((counts - expected) ** 2 / expected).sum() < 21

    @pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 1}])
    def test_epochs_and_seeds_draw_independently(self, other: dict[str, int]) -> None:
        counts = np.zeros((4, 4))
        np.add.at(counts, (self.drawn(), self.drawn(**other)), 1)
        expected = np.outer(self.WEIGHTS, self.WEIGHTS) * 20_000
        # Chi-squared with 15 degrees of freedom: 45 has a probability of 1e-4.
        assert ((counts - expected) ** 2 / expected).sum() < 45

    def test_neighbours_draw_independently(self) -> None:
        drawn, counts = self.drawn(), np.zeros((4, 4))
        np.add.at(counts, (drawn[:-1], drawn[1:]), 1)
        expected = np.outer(self.WEIGHTS, self.WEIGHTS) * 20_000
        assert ((counts - expected) ** 2 / expected).sum() < 45

    @given(
        plan=PLANS,
        weights=st.lists(st.floats(0.01, 1), min_size=2, max_size=6),
        other_batch_size=st.integers(1, 20),
        epoch=st.integers(0, 9),
    )
    def test_an_examples_prompt_depends_on_its_epoch_and_not_on_its_window(
        self, plan: WindowPlan, weights: list[float], other_batch_size: int, epoch: int
    ) -> None:
        shares = tuple(weight / sum(weights) for weight in weights)
        found = []
        for batch_size in (plan.batch_size, other_batch_size):
            mixed = WindowPlan(plan.num_examples, batch_size, plan.seed, plan.fingerprint, shares)
            steps = range(epoch * mixed.windows_per_epoch, (epoch + 1) * mixed.windows_per_epoch)
            pairs = [zip(mixed.window(step), mixed.prompts(step), strict=True) for step in reversed(steps)]
            found.append({index: prompt for pair in pairs for index, prompt in pair})
        assert found[0] == found[1]
        assert set(found[0].values()) <= set(range(len(shares)))

    @given(plan=PLANS, step=st.integers(0, 200))
    def test_a_draw_is_what_splitmix64_says(self, plan: WindowPlan, step: int) -> None:
        mixed = WindowPlan(plan.num_examples, plan.batch_size, plan.seed, plan.fingerprint, (0.2, 0.3, 0.5))
        key = f"{plan.fingerprint}|{plan.seed}|{mixed.epoch_of(step)}|prompts".encode()
        seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "big")
        for index, prompt in zip(mixed.window(step).tolist(), mixed.prompts(step).tolist(), strict=True):
            draw = splitmix64(seed, index) / 2**64
            assert prompt == (0 if draw < 0.2 else 1 if draw < 0.5 else 2)

    def test_prompts_are_the_same_on_every_machine_and_version(self) -> None:
        plan = WindowPlan(10, 10, 42, "data", (0.25, 0.25, 0.25, 0.25))
        assert plan.window(0).tolist() == [4, 9, 0, 2, 7, 5, 8, 3, 1, 6]
        assert plan.prompts(0).tolist() == [3, 2, 1, 3, 3, 2, 0, 2, 0, 0]

    @given(plan=PLANS, step=st.integers(0, 200))
    def test_prompts_change_no_window_and_one_prompt_is_no_draw(self, plan: WindowPlan, step: int) -> None:
        mixed = WindowPlan(plan.num_examples, plan.batch_size, plan.seed, plan.fingerprint, (0.5, 0.5))
        np.testing.assert_array_equal(mixed.window(step), plan.window(step))
        assert plan.prompts(step).tolist() == [0] * len(plan.window(step))

    def test_a_process_of_its_own_draws_the_same(self) -> None:
        code = (
            "from recipe_exp.data import WindowPlan;"
            "print(WindowPlan(500, 64, 3, 'data', (0.5, 0.3, 0.2)).prompts(11).tolist())"
        )
        environment = {**os.environ, "PYTHONHASHSEED": "7"}
        shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
        assert json.loads(shown) == WindowPlan(500, 64, 3, "data", (0.5, 0.3, 0.2)).prompts(11).tolist()


def splitmix64(seed: int, position: int) -> int:
    """The output of the published generator at a position, in whole numbers."""
    mask = 2**64 - 1
    bits = (seed + (position + 1) * 0x9E3779B97F4A7C15) & mask
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & mask
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & mask
    return bits ^ (bits >> 31)


class TestCurriculum:
    @staticmethod
    def epoch(plan: WindowPlan, epoch: int = 0) -> list[int]:
        steps = range(epoch * plan.windows_per_epoch, (epoch + 1) * plan.windows_per_epoch)
        return [int(index) for step in steps for index in plan.window(step)]

    @given(plan=PLANS, data=st.data())
    def test_the_first_epoch_is_ordered_as_defined_and_later_ones_are_uniform(
        self, plan: WindowPlan, data: st.DataObject
    ) -> None:
        values = data.draw(st.lists(st.integers(0, 9), min_size=plan.num_examples, max_size=plan.num_examples))
        curriculum = WindowPlan(
            plan.num_examples, plan.batch_size, plan.seed, plan.fingerprint, difficulty=np.array(values)
        )
        place = {index: position for position, index in enumerate(self.epoch(plan))}
        by_difficulty = sorted(place, key=lambda index: (values[index], place[index]))
        rank = {index: position for position, index in enumerate(by_difficulty)}
        assert self.epoch(curriculum) == sorted(place, key=lambda index: (2 * rank[index] + place[index], place[index]))
        assert self.epoch(curriculum, 1) == self.epoch(plan, 1)
        assert self.epoch(curriculum, 2) == self.epoch(plan, 2)

    @given(plan=PLANS, steps=st.lists(st.integers(0, 200), min_size=1, max_size=6))
    def test_any_step_may_be_asked_for_in_any_order(self, plan: WindowPlan, steps: list[int]) -> None:
        difficulty = np.arange(plan.num_examples) % 7
        plans = [
            WindowPlan(plan.num_examples, plan.batch_size, plan.seed, plan.fingerprint, (0.5, 0.5), difficulty)
            for _ in range(2)
        ]
        walked = [(plans[0].window(step), plans[0].prompts(step)) for step in range(max(steps) + 1)]
        for step in steps:
            np.testing.assert_array_equal(plans[1].window(step), walked[step][0])
            np.testing.assert_array_equal(plans[1].prompts(step), walked[step][1])

    def test_easy_ones_come_first_and_chance_remains(self) -> None:
        size = 4000
        difficulty = np.random.default_rng(0).permutation(size).astype(np.float32)
        ranks = difficulty[self.epoch(WindowPlan(size, 32, 0, "data", difficulty=difficulty))]
        assert np.corrcoef(ranks, np.arange(size))[0, 1] > 0.8
        assert ranks[: size // 10].max() < size / 2, "no hard one in the beginning"
        assert ranks[-size // 10 :].min() > size / 2, "no easy one in the end"
        middle = ranks[int(0.45 * size) : int(0.55 * size)]
        assert middle.max() - middle.min() == pytest.approx(size / 2, rel=0.25), "half of the range at a time"

    def test_where_all_are_equally_hard_the_order_is_uniform(self) -> None:
        flat = WindowPlan(100, 8, 5, "data", difficulty=np.zeros(100))
        assert self.epoch(flat) == self.epoch(WindowPlan(100, 8, 5, "data"))

    def test_the_seed_still_changes_the_order(self) -> None:
        difficulty = np.arange(1000)
        orders = [self.epoch(WindowPlan(1000, 8, seed, "data", difficulty=difficulty)) for seed in (0, 1)]
        assert orders[0] != orders[1]

    def test_every_example_needs_a_difficulty(self) -> None:
        with pytest.raises(ValueError, match="3 difficulties for 4 examples"):
            WindowPlan(4, 2, 0, "data", difficulty=np.zeros(3))


LENGTHS = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 600)), min_size=1, max_size=40)


def arrays(lengths: list[tuple[int, int]]) -> tuple[IndexArray, IndexArray]:
    sources, targets = np.array(lengths, dtype=np.int64).T
    return sources, targets


class TestMicroBatches:
    @settings(deadline=None, max_examples=300)
    @given(lengths=LENGTHS, budget=st.integers(1, 4000), num_processes=st.integers(1, 9), is_padded=st.booleans())
    def test_the_promises_of_a_plan(
        self, lengths: list[tuple[int, int]], budget: int, num_processes: int, is_padded: bool
    ) -> None:
        sources, targets = arrays(lengths)
        size_of = Lengths(sources, targets, is_padded=is_padded).size_of
        hands = plan_micro_batches(sources, targets, budget, num_processes, is_padded=is_padded)
        parts = [part for hand in hands for part in hand]

        assert len(hands) == num_processes
        assert len({len(hand) for hand in hands}) == 1, "collective calls match"
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths))), "each position once"
        for part in parts:
            assert len(part) <= 1 or size_of(part) <= budget
        for round_ in zip(*hands, strict=True):
            assert any(len(part) for part in round_), "no round is empty for all"
            assert all(len(part) for part in round_) or all(len(part) <= 1 for part in round_), "none idles in vain"

        sizes = [[size_of(part) for part in hand] for hand in hands]
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

    @pytest.mark.parametrize("is_padded", [False, True])
    def test_a_size_is_what_a_network_computes(self, is_padded: bool) -> None:
        sizes = Lengths(np.array([3, 7, 2]), np.array([10, 4, 30]), is_padded=is_padded)
        assert sizes.size_of(np.array([0, 2])) == (2 * (3 + 30) if is_padded else 3 + 10 + 2 + 30)
        assert sizes.size_of(np.array([], dtype=np.int64)) == 0

    @settings(deadline=None, max_examples=100)
    @given(
        lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 60)), min_size=1, max_size=9),
        budget=st.integers(1, 400),
        is_padded=st.booleans(),
    )
    def test_no_cut_of_the_sorted_row_has_fewer_parts_or_a_smaller_largest_one(
        self, lengths: list[tuple[int, int]], budget: int, is_padded: bool
    ) -> None:
        sources, targets = arrays(lengths)
        size_of = Lengths(sources, targets, is_padded=is_padded).size_of

        def largest(parts: list[IndexArray]) -> int:
            """Of the parts of several examples: a single one over the budget cannot be cut."""
            return max((size_of(part) for part in parts if len(part) > 1), default=0)

        order = np.lexsort((sources, targets))
        every_cut = [
            np.split(order, np.flatnonzero(cuts) + 1) for cuts in itertools.product([0, 1], repeat=len(order) - 1)
        ]
        allowed = [parts for parts in every_cut if largest(parts) <= budget]
        fewest = min(map(len, allowed))
        assert len(cut_by_tokens(sources, targets, budget, is_padded=is_padded)) == fewest
        (planned,) = plan_micro_batches(sources, targets, budget, 1, is_padded=is_padded)
        assert len(planned) <= fewest
        heaviest = min(max(map(size_of, parts)) for parts in allowed if len(parts) <= fewest)
        assert max(map(size_of, planned)) <= max(heaviest, budget)
        if heaviest <= budget:
            assert max(map(size_of, planned)) == heaviest

    def test_lengths_are_sorted_so_that_padding_is_small(self) -> None:
        rng = np.random.default_rng(0)
        targets = rng.integers(20, 500, 256)
        sources = targets // 3 + rng.integers(1, 20, 256)
        padded = sum(map(Lengths(sources, targets, is_padded=True).size_of, cut_by_tokens(sources, targets, 8192)))
        assert 1 - (sources + targets).sum() / padded < 0.15

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
            sizes = [list(map(Lengths(sources, targets).size_of, hand)) for hand in hands]
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
