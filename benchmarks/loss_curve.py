"""The loss of a run beside a plain padded loop: `loss_curve.py [--data FILE] [--model t5_mini] [--steps 200]`.

The plain loop is a few lines of PyTorch around transformers' forward pass: a batch padded to its longest recipe, fp32,
the mean cross-entropy of a target token, the gradient clipped by its norm in fp64, AdamW. It starts from the same
weights as the run and sees the same recipes in the same order; dropout is 0. Two things are compared:

- each single window: at every step both forward passes look at the plain loop's weights;
- the curve: each trains on its own weights, and every step's loss before its update is kept.

A second plain loop takes the recipes of a window one at a time and adds their gradients up: the same sums in another
order, and not a line of this project's arithmetic. How far it strays from the first is what rounding alone does.

Prints the distances at their largest and at a few steps, with the losses. `--compile` compiles ours.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.data.loader import Window, make_micro_batch
from recipe_exp.data.plan import IndexArray
from recipe_exp.data.tokens.cache import build_or_open_cache
from recipe_exp.data.tokens.token_files import TokenSplit
from recipe_exp.models.load import from_shape
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.tasks.running.resuming import new_start
from recipe_exp.tasks.running.workbench import Workbench
from recipe_exp.training.optimizers import parameter_groups
from recipe_exp.training.step import seed_everything

SHOWN_STEPS = 5


@dataclass
class Curves:
    """Losses in nats a token, a value for each step.

    Attributes:
        ours: of the run.
        plain: of the plain loop.
        one_by_one: of the plain loop that takes a recipe at a time.
        ours_on_plain: of our forward pass under the plain loop's weights.
    """

    ours: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    one_by_one: list[float] = field(default_factory=list)
    ours_on_plain: list[float] = field(default_factory=list)

    def distances(self) -> dict[str, np.ndarray[Any, Any]]:
        """Returns by column |difference| to the plain loop, (steps,)."""
        columns = {"one window": self.ours_on_plain, "curve": self.ours, "rounding": self.one_by_one}
        return {name: np.abs(np.array(losses) - np.array(self.plain)) for name, losses in columns.items()}


def main() -> None:
    """Prints the distances."""
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        curves = learn(configured(options, folder), Path(folder))
    distances = curves.distances()
    print(f"{'step':>6}{'ours':>14}{'plain loop':>14}" + "".join(f"{name:>14}" for name in distances))
    for step in np.unique(np.linspace(0, len(curves.plain) - 1, SHOWN_STEPS).astype(int)).tolist():
        losses = f"{curves.ours[step]:>14.7f}{curves.plain[step]:>14.7f}"
        print(f"{step + 1:>6}{losses}" + "".join(f"{values[step]:>14.1e}" for values in distances.values()))
    print(f"{'most':>6}{'':>28}" + "".join(f"{values.max():>14.1e}" for values in distances.values()))


def parse() -> argparse.Namespace:
    """Returns the command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="recipes in any format that data.path takes; the built-in ones without it")
    parser.add_argument("--model", default="t5_mini", help="of conf/model, with random weights in its shape")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=4, help="recipes of a step")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="after the warm-up")
    parser.add_argument("--warmup-steps", type=int, default=100)
    parser.add_argument("--compile", action="store_true", help="whether ours is compiled")
    return parser.parse_args()


def configured(options: argparse.Namespace, folder: str) -> ExperimentConfig:
    """Returns the configuration of the run."""
    data = ["data=sample"] if options.data is None else ["data=files", f"data.path={Path(options.data).absolute()}"]
    return compose(
        [
            *data,
            *(f"model={options.model}", "model.pretrained=false", "model.dropout=0"),
            *("hardware=cpu", f"hardware.compile={str(options.compile).lower()}", "training.precision=fp32"),
            *(f"training.batch_size={options.batch_size}", f"training.max_steps={options.steps}"),
            *("training.num_epochs=1000", "training/schedule=constant", "evaluation.every_n_steps=null"),
            *(f"training.learning_rate={options.learning_rate}", f"training.warmup_steps={options.warmup_steps}"),
            *(f"output_dir={folder}", f"data.cache_dir={folder}/cache"),
        ]
    )


def learn(config: ExperimentConfig, folder: Path) -> Curves:
    """Learns three times, side by side."""
    vocab_size = config.model.shape.vocab_size
    cache = build_or_open_cache(config.data, cache_dir=folder / "cache", tokenizer=None, vocab_size=vocab_size)
    bench = Workbench.build(config, cache, new_start(config, cache), folder / "run")
    split, curves = cache.split("train"), Curves()
    plain, one_by_one = PlainLoop(config, split), PlainLoop(config, split)
    for window in bench.windows(0):
        curves.ours_on_plain.append(plain.loss_by_ours(window))
        result = bench.step(window)
        curves.ours.append(float(result.loss_sum) / window.num_target_tokens)
        batch, rate = np.concatenate([part.indices for part in window.micro_batches]), result.learning_rate
        curves.plain.append(plain.step([batch], window.num_target_tokens, rate))
        curves.one_by_one.append(one_by_one.step(np.split(batch, len(batch)), window.num_target_tokens, rate))
    return curves


class PlainLoop:
    """A padded training loop as anyone would write it.

    Args:
        config: of the run that it stands beside.
        split: its recipes.
    """

    def __init__(self, config: ExperimentConfig, split: TokenSplit) -> None:
        seed_everything(config.seed)
        self._network = from_shape(config.model.shape, dtype=torch.float32, attention="eager")
        self._network.eval()  # dropout is 0
        self._split, self._max_norm = split, config.training.max_grad_norm
        optimizer = config.training.optimizer
        assert optimizer.kind == "adamw"
        self._optimizer = torch.optim.AdamW(
            parameter_groups(self._network, config.training.weight_decay),
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.epsilon,
        )

    def loss_by_ours(self, window: Window) -> float:
        """Returns the loss of a window under these weights, by the forward pass of the run."""
        ours = SequenceLoss(self._network)
        with torch.no_grad():
            return float(sum(ours(part) for part in window.micro_batches)) / window.num_target_tokens

    def step(self, batches: list[IndexArray], num_target_tokens: int, learning_rate: float) -> float:
        """Learns from a window's recipes, cut into batches; returns their loss before that."""
        self._optimizer.zero_grad()
        loss_sum = 0.0
        for batch in batches:
            input_ids, attention_mask, labels = make_micro_batch(self._split, batch).padded(self._split.pad_id)
            logits = self._network(input_ids=input_ids, attention_mask=attention_mask, labels=labels).logits
            loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            (loss / num_target_tokens).backward()  # type: ignore[no-untyped-call]
            loss_sum += float(loss.detach())
        if self._max_norm is not None:
            self._clip(self._max_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        return loss_sum / num_target_tokens

    def _clip(self, max_norm: float) -> None:
        # PyTorch's clip_grad_norm_ is off in the fourth digit for an embedding on a CPU, which moves the whole curve.
        gradients = [each.grad for each in self._network.parameters() if each.grad is not None]
        norm = float(sum(gradient.double().square().sum() for gradient in gradients)) ** 0.5
        for gradient in gradients:
            gradient.mul_(min(1.0, max_norm / (norm + 1e-6)))


if __name__ == "__main__":
    main()
