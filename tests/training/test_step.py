from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from recipe_exp.data.loader import Window, make_window
from recipe_exp.data.plan import WindowPlan
from recipe_exp.data.tokens.token_files import TokenSplit
from recipe_exp.training.state import StepResult
from recipe_exp.training.step import TrainingStep, seed_everything

StepBuilder = Callable[..., TrainingStep]
WHOLE = 10**6


def window_of(
    split: TokenSplit, budget: int = WHOLE, *, batch_size: int = 16, step: int = 0, process: int = 0, of: int = 1
) -> Window:
    return make_window(split, WindowPlan(len(split), batch_size, 0, "data"), step, budget, process, of)


def cut_into(split: TokenSplit, num_micro_batches: int) -> Window:
    windows = (window_of(split, budget) for budget in (WHOLE, *range(1500, 30, -10)))
    return next(window for window in windows if len(window.micro_batches) == num_micro_batches)


def gradient_of(step: TrainingStep) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in step.model.parameters() if parameter.grad is not None])


def run(step: TrainingStep, window: Window) -> tuple[float, torch.Tensor, StepResult]:
    """Takes a step, and returns its loss, the gradient that the optimizer learnt from, and the result."""
    gradients: list[torch.Tensor] = []
    # AdamW writes what it divided over the gradient.
    hook = step.optimizer.register_step_post_hook(lambda *_: gradients.append(gradient_of(step)))
    result = step(window)
    hook.remove()
    return float(result.loss_sum) / window.num_target_tokens, gradients[-1], result


def by_definition(
    step: TrainingStep, split: TokenSplit, window: Window, label_smoothing: float = 0.0
) -> tuple[float, torch.Tensor]:
    """Pads the whole window to one batch and takes the mean cross-entropy of its target tokens."""
    indices = [index for micro_batch in window.micro_batches for index in micro_batch.indices]
    sources, targets = [split.source(i).tolist() for i in indices], [split.target(i).tolist() for i in indices]
    width, height = max(map(len, sources)) + 3, max(map(len, targets)) + 5
    ids = torch.tensor([[*text, *[0] * (width - len(text))] for text in sources])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in sources])
    labels = torch.tensor([[*text, *[-100] * (height - len(text))] for text in targets])
    network: Any = step.model.network
    logits = network(input_ids=ids, attention_mask=mask, labels=labels).logits
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=label_smoothing)
    step.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    return loss.item(), gradient_of(step)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.norm() > 0
    assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("num_micro_batches", [1, 2, 8, 16])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_loss_and_gradient_are_the_windows_however_it_is_cut(
    split: TokenSplit, build_step: StepBuilder, num_micro_batches: int, label_smoothing: float
) -> None:
    window = window_of(split, 16) if num_micro_batches == 16 else cut_into(split, num_micro_batches)
    assert len(window.micro_batches) == num_micro_batches
    loss, gradient, _ = run(build_step(label_smoothing=label_smoothing), window)
    expected_loss, expected_gradient = by_definition(build_step(), split, window, label_smoothing)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert_close(gradient, expected_gradient)


def test_a_mean_of_micro_batch_means_would_be_noticed(split: TokenSplit, build_step: StepBuilder) -> None:
    """The examples of this module differ enough in length to tell the two apart."""
    window = cut_into(split, 8)
    step = build_step()
    means = []
    for micro_batch in window.micro_batches:
        total = step.model(micro_batch)
        means.append(total / micro_batch.num_target_tokens / len(window.micro_batches))
    step.optimizer.zero_grad()
    torch.autograd.backward(torch.stack(means).sum())
    wrong = gradient_of(step)
    _, right, _ = run(build_step(), window)
    assert (wrong - right).norm() > 0.05 * right.norm()


def test_seq2seq_trainer_is_four_times_off_where_this_is_exact(
    split: TokenSplit, build_step: StepBuilder, tmp_path: Path
) -> None:
    """The reason why the loss is computed here: T5 ignores the token count that the Trainer believes it divides by."""

    def theirs(batch_size: int, accumulation: int) -> tuple[float, float]:
        whole = window_of(split, batch_size=8).micro_batches[0]
        rows = [
            {"input_ids": ids, "attention_mask": mask, "labels": labels}
            for ids, mask, labels in zip(*whole.padded(0), strict=True)
        ]
        arguments = Seq2SeqTrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        network: Any = build_step().model.network
        trainer = Seq2SeqTrainer(model=network, args=arguments, train_dataset=rows)
        trainer.train()
        entry = trainer.state.log_history[0]
        return entry["loss"], entry["grad_norm"]

    def ours(budget: int) -> tuple[float, float, int]:
        step = build_step()
        window = window_of(split, budget, batch_size=8)
        loss, _, result = run(step, window)
        return loss, float(result.grad_norm), len(window.micro_batches)

    whole, accumulated = theirs(8, 1), theirs(2, 4)
    assert accumulated[0] == pytest.approx(4 * whole[0], rel=0.15)
    assert accumulated[1] > 3 * whole[1]
    for budget, num_micro_batches in ((WHOLE, 1), (60, 4)):
        loss, grad_norm, found = ours(budget)
        assert found >= num_micro_batches
        assert loss == pytest.approx(whole[0], rel=1e-4)
        assert grad_norm == pytest.approx(whole[1], rel=1e-4)


@pytest.mark.parametrize("num_processes", [2, 5])
def test_shares_of_all_processes_add_up_and_stand_ins_add_nothing(
    split: TokenSplit, build_step: StepBuilder, num_processes: int
) -> None:
    whole = window_of(split, batch_size=3)
    expected_loss, expected_gradient, _ = run(build_step(), whole)
    shares = [window_of(split, 60, batch_size=3, process=i, of=num_processes) for i in range(num_processes)]
    outcomes = [run(build_step(), share) for share in shares]
    assert sum(loss for loss, _, _ in outcomes) == pytest.approx(expected_loss, rel=1e-5)
    assert_close(sum((gradient for _, gradient, _ in outcomes), torch.zeros(())), expected_gradient)
    idle = [i for i, share in enumerate(shares) if all(part.is_dummy for part in share.micro_batches)]
    assert bool(idle) == (num_processes == 5)
    for i in idle:
        assert outcomes[i][0] == 0.0
        assert not outcomes[i][1].any(), "a stand-in takes part in the exchange with a gradient of zero"


def test_dropout_is_drawn_from_seed_step_and_example_alone(split: TokenSplit, build_step: StepBuilder) -> None:
    def gradient(*, seed: int = 0, step: int = 0, budget: int = WHOLE, disturb: int = 0) -> torch.Tensor:
        training_step = build_step(dropout=0.3)
        torch.manual_seed(disturb)
        torch.rand(disturb)
        # As many epochs on, the same examples are learnt from under another number of the step.
        window = make_window(split, WindowPlan(len(split), len(split), seed, "data"), step, budget, 0, 1)
        return run(training_step, window)[1]

    first = gradient()
    assert torch.equal(gradient(disturb=17), first)
    for budget in (60, 200):
        assert_close(gradient(budget=budget), first)
    others = [first, gradient(seed=1), gradient(step=1), gradient(step=5)]
    for position, one in enumerate(others):
        assert not any(torch.allclose(one, other, rtol=0.1) for other in others[position + 1 :])


@pytest.mark.parametrize("num_processes", [2, 5])
def test_with_dropout_too_the_shares_of_processes_add_up(
    split: TokenSplit, build_step: StepBuilder, num_processes: int
) -> None:
    expected_loss, expected_gradient, _ = run(build_step(dropout=0.3), window_of(split))
    shares = [window_of(split, 60, process=process, of=num_processes) for process in range(num_processes)]
    outcomes = [run(build_step(dropout=0.3), share) for share in shares]
    assert sum(loss for loss, _, _ in outcomes) == pytest.approx(expected_loss, rel=1e-5)
    assert_close(sum((gradient for _, gradient, _ in outcomes), torch.zeros(())), expected_gradient)


def test_every_source_of_randomness_is_seeded() -> None:
    def draw(*position: int) -> tuple[float, ...]:
        seed_everything(*position)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert draw(7, 3, 0) == draw(7, 3, 0)
    draws = [draw(7, 3, 0), draw(7, 4, 0), draw(7, 3, 1), draw(8, 3, 0), draw(2**63 - 1, 3, 0)]
    for values in zip(*draws, strict=True):
        assert len(set(values)) == len(draws)


@pytest.mark.parametrize("share", [0.1, 2.0])
def test_clipping_is_that_of_torch_and_the_norm_is_from_before(
    split: TokenSplit, build_step: StepBuilder, share: float
) -> None:
    window = cut_into(split, 2)
    unclipped = build_step()
    _, before, result = run(unclipped, window)
    assert float(result.grad_norm) == pytest.approx(float(before.norm()), rel=1e-6)
    limit = share * float(before.norm())
    parameters = list(unclipped.model.parameters())
    for parameter, part in zip(parameters, before.split([each.numel() for each in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).clone()
    torch.nn.utils.clip_grad_norm_(parameters, limit)
    _, clipped, result = run(build_step(max_grad_norm=limit), window)
    torch.testing.assert_close(clipped, gradient_of(unclipped), rtol=1e-6, atol=0.0)
    assert float(clipped.norm()) == pytest.approx(min(limit, float(before.norm())), rel=1e-5)
    assert float(result.grad_norm) == pytest.approx(float(before.norm()), rel=1e-6)


def test_bf16_stays_close_over_fp32_weights(split: TokenSplit, build_step: StepBuilder) -> None:
    window = cut_into(split, 2)
    loss, gradient, _ = run(build_step(), window)
    step = build_step(precision="bf16")
    loss_bf16, gradient_bf16, _ = run(step, window)
    assert loss_bf16 != loss
    assert loss_bf16 == pytest.approx(loss, rel=0.01)
    assert functional.cosine_similarity(gradient_bf16, gradient, dim=0) > 0.99
    assert {parameter.dtype for parameter in step.model.parameters()} == {torch.float32}
    assert gradient_bf16.dtype == torch.float32


def test_a_non_finite_gradient_is_reported_and_changes_no_weight(split: TokenSplit, build_step: StepBuilder) -> None:
    step = build_step(max_grad_norm=1.0)
    windows = [window_of(split, 60, step=number) for number in range(3)]
    step(windows[0])
    network: Any = step.model.network
    lost: torch.Tensor = network.lm_head.weight
    kept = lost.detach().clone()
    with torch.no_grad():
        lost[9, 0] = float("inf")
    before = [parameter.detach().clone() for parameter in step.model.parameters()]
    assert not step(windows[1]).is_finite
    assert all(torch.equal(now, then) for now, then in zip(step.model.parameters(), before, strict=True))
    with torch.no_grad():
        lost.copy_(kept)
    assert step(windows[2]).is_finite
    assert all(parameter.isfinite().all() for parameter in step.model.parameters())
    assert not torch.equal(lost, kept)


def test_a_result_says_what_the_step_did(split: TokenSplit, build_step: StepBuilder) -> None:
    step = build_step(learning_rate=0.01)
    window = window_of(split, 100, step=1)
    result = step(window)
    indices = [index for micro_batch in window.micro_batches for index in micro_batch.indices]
    assert result.step == 2
    assert result.learning_rate == 0.01 / 2
    assert [group["lr"] for group in step.optimizer.param_groups] == [0.005, 0.005]
    assert result.num_examples == len(indices) == 8, "the last window of an epoch"
    assert result.num_target_tokens == split.target_lengths[indices].sum()
    assert result.num_source_tokens == split.source_lengths[indices].sum()
    assert result.num_computed_tokens == sum(part.num_tokens for part in window.micro_batches)
    assert bool(result.is_finite)
    assert not result.loss_sum.requires_grad


def test_steps_learn(split: TokenSplit, build_step: StepBuilder) -> None:
    step = build_step(learning_rate=0.05, max_grad_norm=1.0)
    losses = [run(step, replace(window_of(split, 300), step=number))[0] for number in range(10)]
    assert losses[-1] < 0.9 * losses[0]


def test_no_gradient_is_kept_after_a_step(split: TokenSplit, build_step: StepBuilder) -> None:
    step = build_step()
    step(window_of(split))
    assert all(parameter.grad is None for parameter in step.model.parameters())
