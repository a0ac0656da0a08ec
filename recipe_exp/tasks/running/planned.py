"""The plan that every training run begins with: shown, kept, a reason to refuse, and held against what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.errors import HardwareError
from recipe_exp.files import size_text, write_atomically
from recipe_exp.hardware import accelerator as processes
from recipe_exp.hardware.machinery import Machinery
from recipe_exp.hardware.peak import PeakMemory
from recipe_exp.planning.device import is_other_card, visible_gpus
from recipe_exp.planning.inputs import Inputs, Machine
from recipe_exp.planning.lengths import Lengths, lengths_of
from recipe_exp.planning.plan import Plan, build_plan
from recipe_exp.planning.remedies import Setup
from recipe_exp.planning.table import plan_line
from recipe_exp.planning.timing import flops_per_example
from recipe_exp.tasks.plan import measured_speed, setup_of, tuning_of, with_unknowns
from recipe_exp.tasks.running.session import RunSession
from recipe_exp.training.trainer import Trainer

PLAN_FILE = "plan.json"
_ANYWAY = "hardware.on_oversize=warn tries all the same"
_NUM_SHOWN_CHANGES = 3


@dataclass(frozen=True)
class PlannedRun:
    """A plan, and what its run takes of the memory.

    Attributes:
        plan: made before the model was loaded.
        config: of the run.
        machinery: the resolved machine.
        lengths: of the examples.
        peak: watches the memory of this process.
    """

    plan: Plan
    config: ExperimentConfig
    machinery: Machinery
    lengths: Lengths
    peak: PeakMemory

    def record(self, session: RunSession, trainer: Trainer) -> None:
        """Puts predicted and actual memory, and the speed that was reached, into `run.json` and the journal."""
        actual = self.peak.read()
        memory: dict[str, int | str] = {
            "planned_peak_bytes": self.plan.memory.tensor_bytes,
            "planned_typical_peak_bytes": self.plan.typical.tensor_bytes,
            "actual_peak_bytes": actual,
            "compared": f"planned: tensors, at most and in a typical step; actual: {self.peak.meaning}",
        }
        session.record(memory=memory, **self._speed(trainer))
        metrics = {f"machinery/{name}": float(size) for name, size in memory.items() if isinstance(size, int)}
        if session.status == "finished":
            session.journal.metrics(trainer.state.step, metrics)
        if not session.folder.path.joinpath(PLAN_FILE).exists():
            save_plan(session, self.plan)

    def _speed(self, trainer: Trainer) -> dict[str, dict[str, float | str]]:
        rate = trainer.metrics.get("train/recipes_per_second")
        if rate is None:
            return {}
        setup = Setup(self.config.model, self.config.training, self.machinery.precision)
        flops = rate * flops_per_example(setup, self.lengths) / self.machinery.num_processes
        return {"speed": {"model": setup.model.name, "tuning": tuning_of(self.config), "flops_per_second": flops}}


def plan_training(
    config: ExperimentConfig, cache: TokenCache, machinery: Machinery, session: RunSession | None, console: Console
) -> PlannedRun:
    """Shows and keeps the plan of a run, and begins to watch its memory; called before the model is loaded.

    Args:
        config: of the run.
        cache: its data.
        machinery: the resolved machine.
        session: the run's record; None on every process but the main one.
        console: gets a line, and one more for each thing that is unusual.

    Raises:
        HardwareError: if the run cannot fit, and that is refused.
    """
    lengths = lengths_of(cache)
    plan = _plan(config, lengths, machinery)

    def look() -> None:
        console.print(f"plan  {plan_line(plan)}", highlight=False)
        warnings = [*plan.warnings, *_card_warnings(config, machinery)]
        problem = _problem(plan, config, machinery)
        if problem is not None and config.hardware.on_oversize == "refuse":
            raise HardwareError(f"{problem}; {_ANYWAY}")
        if problem is None and not plan.fits:
            there = size_text(plan.subject.memory_bytes)
            problem = f"the plan fills {size_text(plan.peak_bytes)} of {there}; {_remedy(plan)}"
        for line in [*warnings, *([problem] if problem else [])]:
            console.print(f"warning: {line}", style="yellow", highlight=False)
        if session is not None and session.is_accepted:
            save_plan(session, plan)

    processes.from_main_process(look, device=machinery.device)
    return PlannedRun(plan, config, machinery, lengths, PeakMemory(machinery.device))


def save_plan(session: RunSession, plan: Plan) -> None:
    """Writes `plan.json` into the run folder and has it sent to the tracker."""
    path = session.folder.path / PLAN_FILE
    write_atomically(path, (json.dumps(plan.to_dict(), indent=2) + "\n").encode())
    session.journal.artifact(path)


def _plan(config: ExperimentConfig, lengths: Lengths, machinery: Machinery) -> Plan:
    machine = Machine(
        machinery.device,
        machinery.attention,
        machinery.memory_bytes,
        measured_speed(config, machinery.device_name, machinery.precision),
    )
    inputs = Inputs(
        setup=setup_of(config, machinery.precision, is_compiled=machinery.is_compiled),
        hardware=config.hardware.model_copy(update={"num_processes": machinery.num_processes}),
        data=config.data,
        evaluation=config.evaluation,
        machine=machine,
        lengths=lengths,
    )
    return with_unknowns(build_plan(inputs, micro_batch_tokens=machinery.micro_batch_tokens), config.model)


def _problem(plan: Plan, config: ExperimentConfig, machinery: Machinery) -> str | None:
    """Returns why the run cannot fit: the device is too small, or what is free of it."""
    memory_bytes = plan.subject.memory_bytes
    needed = (
        f"hardware.micro_batch_tokens={config.hardware.micro_batch_tokens}: {plan.subject.model} needs "
        f"{size_text(plan.peak_bytes)}"
    )
    if plan.peak_bytes > memory_bytes:
        return f"{needed} and there are {size_text(memory_bytes)}; {_remedy(plan)}"
    gpus = visible_gpus()[: machinery.num_processes] if machinery.device == "cuda" else []
    free = min((gpu.free_bytes for gpu in gpus), default=memory_bytes)
    if plan.peak_bytes > free:
        return f"{needed} and {size_text(free)} of the GPU are free at present; end what else runs on it"
    return None


def _remedy(plan: Plan) -> str:
    helping = [" ".join(change.overrides) for change in plan.advice[:_NUM_SHOWN_CHANGES]]
    if helping:
        return f"add {', or '.join(helping)}"
    leanest = f" with {' '.join(plan.leanest.leanest_overrides)}" if plan.leanest.leanest_overrides else ""
    return f"take a smaller model, or a device of {size_text(plan.leanest.leanest_memory_bytes)}{leanest}"


def _card_warnings(config: ExperimentConfig, machinery: Machinery) -> Iterator[str]:
    hardware = config.hardware
    if machinery.device == "cuda" and is_other_card(hardware, machinery.device_name):
        yield (
            f"hardware.card={hardware.card}: this machine has {machinery.device_name} with "
            f"{size_text(machinery.memory_bytes)} to use; times are those of the other card; take hardware=auto"
        )
