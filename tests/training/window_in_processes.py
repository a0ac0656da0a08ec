"""One of several processes that share windows; `test_two_processes.py` starts it and reads what it saves."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from recipe_exp.config.model import ModelShape
from recipe_exp.config.training import AdamWConfig, LinearScheduleConfig, NoAdapterConfig, TrainingConfig
from recipe_exp.data.loader import make_window
from recipe_exp.data.plan import WindowPlan
from recipe_exp.data.tokens.token_files import TokenSplit
from recipe_exp.errors import DataError
from recipe_exp.hardware.accelerator import (
    create_accelerator,
    from_main_process,
    largest_over_processes,
    leave_processes,
    sum_over_processes,
)
from recipe_exp.models import load
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.training.lifecycle import Lifecycle, StopReason
from recipe_exp.training.optimizers import build_optimizer
from recipe_exp.training.step import TrainingStep


def main(tokens: Path, target: Path, cuts: list[tuple[int, int]]) -> None:
    """Takes one step for each (batch size, micro-batch tokens) from the same weights and saves what came of it."""
    facts = talk(target)
    split = TokenSplit(tokens, pad_id=0)
    tensors: dict[str, torch.Tensor] = {}
    for number, (batch_size, budget) in enumerate(cuts):
        step = build_step()
        window = make_window(
            split,
            WindowPlan(len(split), batch_size, 0, "data"),
            0,
            budget,
            step.accelerator.process_index,
            step.accelerator.num_processes,
        )
        parameters = list(step.model.parameters())
        gradients: list[torch.Tensor] = []
        step.optimizer.register_step_pre_hook(partial(_keep_gradients, parameters, gradients))
        result = step(window)
        (loss_sum,) = sum_over_processes(step.accelerator, [float(result.loss_sum)])
        tensors[f"{number}.loss"] = torch.tensor(loss_sum / window.num_target_tokens, dtype=torch.float64)
        tensors[f"{number}.gradient"] = flat(gradients)
        tensors[f"{number}.weights"] = flat([p.detach() for p in parameters])
        tensors[f"{number}.norm"] = result.grad_norm
        facts[f"{number}.parts"] = [part.is_dummy for part in window.micro_batches]
    name = os.environ.get("RANK", "alone")
    save_file(tensors, target / f"{name}.safetensors")
    (target / f"{name}.json").write_text(json.dumps(facts), encoding="utf-8")
    leave_processes()


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Joins tensors to one row."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def build_step() -> TrainingStep:
    """Builds the arithmetic over the same weights in every process, without dropout."""
    accelerator = create_accelerator(device="cpu", precision="fp32", num_threads=1)
    torch.manual_seed(0)
    shape = ModelShape(vocab_size=60, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_decoder_layers=1, num_heads=2)
    network = load.from_shape(shape, dtype=torch.float32)
    load.set_dropout(network, 0.0)
    loss = SequenceLoss(network).train()
    model = accelerator.prepare(loss)
    config = TrainingConfig(optimizer=AdamWConfig(), schedule=LinearScheduleConfig(), adapter=NoAdapterConfig())
    optimizer = build_optimizer(loss, config)
    return TrainingStep(
        model, optimizer, accelerator, lambda _step: 0.01, max_grad_norm=None, label_smoothing=0.0, seed=0
    )


def _keep_gradients(parameters: list[torch.nn.Parameter], kept: list[torch.Tensor], *_: object) -> None:
    kept[:] = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]


def talk(target: Path) -> dict[str, object]:
    """Lets the processes agree on what only one of them knows."""
    rank = int(os.environ.get("RANK", "0"))
    facts: dict[str, object] = {"from_main": from_main_process(lambda: f"from {rank}", device="cpu")}

    def refuse() -> None:
        raise DataError("the main process found no data")

    try:
        from_main_process(refuse, device="cpu")
    except DataError as error:
        facts["error"] = str(error)
    accelerator = create_accelerator(device="cpu", precision="fp32", num_threads=1)
    facts["num_processes"] = accelerator.num_processes
    facts["sum"] = sum_over_processes(accelerator, [rank + 1.0, 0.5])
    facts["largest"] = largest_over_processes(accelerator, 10 - rank)
    lifecycle = Lifecycle(lambda value: largest_over_processes(accelerator, value))
    facts["stops_before"] = lifecycle.should_stop()
    if rank == accelerator.num_processes - 1:
        lifecycle.stop(StopReason.SIGTERM)
    facts["stops"] = lifecycle.should_stop()
    facts["reason"] = lifecycle.reason.name
    return facts


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
