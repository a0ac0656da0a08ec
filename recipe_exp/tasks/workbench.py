"""Everything that takes part in a step of one run, built from its configuration, saved and restored together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.data.cache import TokenCache
from recipe_exp.data.loader import Window, WindowLoader
from recipe_exp.data.plan import WindowPlan
from recipe_exp.data.prompts import find_template
from recipe_exp.errors import ResumeError
from recipe_exp.evaluation.evaluator import Evaluator
from recipe_exp.hardware.accelerator import create_accelerator, from_main_process
from recipe_exp.hardware.detect import Machinery
from recipe_exp.models.finetuned import build_trainable, describe_model, load_tuned_state, tuned_state, weights_file
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.training import checkpoint
from recipe_exp.training.optimizers import build_optimizer, load_named_optimizer_state, named_optimizer_state
from recipe_exp.training.schedules import build_schedule
from recipe_exp.training.step import TrainingStep, seed_everything
from recipe_exp.training.trainer import RunLength, Trainer


@dataclass
class Workbench:
    """Everything that takes part in a step of one run.

    Attributes:
        config: of the run.
        cache: its data.
        machinery: the resolved machine.
        accelerator: places tensors and joins processes.
        loss: the network with its loss, as it is saved and evaluated; inside `step` it may be wrapped for
            data parallelism.
        step: the arithmetic of one window.
        plan: which examples make which window.
        length: how long the run is.
        run_folder: where it is saved.
    """

    config: ExperimentConfig
    cache: TokenCache
    machinery: Machinery
    accelerator: Accelerator
    loss: SequenceLoss
    step: TrainingStep
    plan: WindowPlan
    length: RunLength
    run_folder: Path

    @classmethod
    def build(cls, config: ExperimentConfig, cache: TokenCache, machinery: Machinery, run_folder: Path) -> Workbench:
        """Builds accelerator, model, optimizer and plan."""
        training = config.training
        accelerator = create_accelerator(
            device=machinery.device, precision=machinery.precision, num_threads=machinery.num_threads
        )
        seed_everything(config.seed)
        network = build_trainable(
            config.model,
            training,
            precision=machinery.precision,
            attention=machinery.attention,
            base_folder=run_folder / "base",
        )
        loss = SequenceLoss(network)
        if config.hardware.compile:
            loss.compile(dynamic=True)
        model = accelerator.prepare(loss)
        optimizer = build_optimizer(loss, training)
        plan = WindowPlan(len(cache.split("train")), training.batch_size, config.seed, cache.data_fingerprint)
        total_steps = plan.windows_per_epoch * training.num_epochs
        length = RunLength(min(total_steps, training.max_steps or total_steps), plan.windows_per_epoch)
        schedule = build_schedule(
            training.schedule,
            peak=training.learning_rate,
            warmup_steps=training.warmup_steps,
            total_steps=length.total_steps,
        )
        step = TrainingStep(
            model,
            optimizer,
            accelerator,
            schedule,
            max_grad_norm=training.max_grad_norm,
            label_smoothing=training.label_smoothing,
            seed=config.seed,
        )
        return cls(config, cache, machinery, accelerator, loss, step, plan, length, run_folder)

    def windows(self, start_step: int) -> Iterator[Window]:
        """Returns this process's share of every window from a step on."""
        return WindowLoader(
            self.cache.split("train"),
            self.plan,
            self.machinery.micro_batch_tokens,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            start_step,
            self.length.total_steps,
        )

    def evaluator(self) -> Evaluator:
        """Returns the evaluator of the validation split."""
        return Evaluator(
            self.cache,
            "validation",
            self.config.evaluation,
            template=find_template(self.config.data.prompt),
            max_source_tokens=self.config.data.max_source_tokens,
            batch_tokens=self.machinery.micro_batch_tokens,
            accelerator=self.accelerator,
        )

    def identity(self) -> dict[str, str]:
        """Returns the fingerprints that a checkpoint is only valid with."""
        return {"data": self.cache.fingerprint, "tokenizer": self.cache.tokenizer.fingerprint}

    def write_checkpoint(self, trainer: Trainer) -> Path | None:
        """Writes the present state; called on every process, done by the main one, whose failure all of them raise.

        Returns:
            The checkpoint on the main process, None on the others.

        Raises:
            CheckpointError: if the disk refuses.
        """
        written: Path = from_main_process(lambda: self._write(trainer), device=self.machinery.device)
        return written if self.accelerator.is_main_process else None

    def _write(self, trainer: Trainer) -> Path:
        return checkpoint.write_checkpoint(
            self.run_folder / "checkpoints",
            trainer.state.step,
            weights_file=weights_file(self.loss.network),
            weights=tuned_state(self.loss.network),
            optimizer=named_optimizer_state(self.loss, self.step.optimizer),
            state={
                **trainer.state_dict(),
                "config": self.config.model_dump(mode="json"),
                "machinery": self.machinery.to_dict(),
                "fingerprints": self.identity(),
            },
            describe=self._describe_model,
        )

    def restore(self, trainer: Trainer, path: Path) -> None:
        """Puts the state of a checkpoint back.

        Raises:
            CheckpointError: if it is damaged.
            ResumeError: if it was made with other data or another tokenizer.
        """
        found = checkpoint.read_checkpoint(path, weights_file(self.loss.network))
        then, now = found.state["fingerprints"], self.identity()
        changed = [f"  {key}: {then.get(key)} -> {now[key]}" for key in now if then.get(key) != now[key]]
        if changed:
            raise ResumeError("\n".join([f"resume: {path} was made with other contents", *changed]))
        load_tuned_state(self.loss.network, found.weights)
        load_named_optimizer_state(self.loss, self.step.optimizer, found.optimizer)
        trainer.load_state_dict(found.state)

    def _describe_model(self, folder: Path) -> None:
        describe_model(self.loss.network, folder)
        self.cache.tokenizer.save(folder)
