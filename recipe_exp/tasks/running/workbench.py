"""Everything that takes part in a step of one run, built from its configuration, saved and restored together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from accelerate import Accelerator

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.migrations import SCHEMA_VERSION, migrate_state
from recipe_exp.config.training import LoraConfig
from recipe_exp.data.loader import Window, WindowLoader
from recipe_exp.data.plan import WindowPlan
from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.errors import CheckpointError
from recipe_exp.evaluation.evaluator import Evaluator
from recipe_exp.files import reason_of
from recipe_exp.hardware.accelerator import create_accelerator, from_main_process
from recipe_exp.hardware.machinery import Machinery
from recipe_exp.models.base_weights import BASE_FOLDER
from recipe_exp.models.finetuned import build_trainable, describe_model, load_tuned_state, tuned_state, weights_file
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.models.unpadded.compiling import Kernels, use_compile_cache
from recipe_exp.tasks.building import generation_budget, plan_windows
from recipe_exp.tasks.places import check_lengths, compile_dir_of
from recipe_exp.tasks.running.resuming import Fingerprints, Start, base_of, refuse_foreign_checkpoint
from recipe_exp.tasks.running.starting import load_start
from recipe_exp.training import checkpoint
from recipe_exp.training.checkpoint import Checkpoint
from recipe_exp.training.optimizers import build_optimizer, load_named_optimizer_state, named_optimizer_state
from recipe_exp.training.schedules import build_schedule
from recipe_exp.training.step import TrainingStep, build_step, seed_everything
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
        start: what it started with.
        base: fingerprint of the weights that it began with or that its adapter sits on; None if there are none.
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
    start: Start
    base: str | None

    @classmethod
    def build(cls, config: ExperimentConfig, cache: TokenCache, start: Start, run_folder: Path) -> Workbench:
        """Builds accelerator, model, optimizer and plan."""
        training, machinery = config.training, start.machinery
        accelerator = create_accelerator(
            device=machinery.device, precision=machinery.precision, num_threads=machinery.num_threads
        )
        seed_everything(config.seed)
        network = build_trainable(
            config.model,
            training,
            precision=machinery.precision,
            attention=machinery.attention,
            base_folder=run_folder / BASE_FOLDER,
            device=machinery.device,
        )
        # What has been fetched by now tells how long a text may be.
        check_lengths(config)
        base: str | None = from_main_process(lambda: base_of(config, run_folder, start), device=machinery.device)
        is_begun = bool(checkpoint.list_checkpoints(run_folder / "checkpoints"))
        if isinstance(training.adapter, LoraConfig) and training.adapter.start_from is not None and not is_begun:
            load_start(network, training.adapter, base)
        if machinery.is_compiled:
            use_compile_cache(compile_dir_of(config))
        loss = SequenceLoss(network, Kernels(is_compiled=machinery.is_compiled))
        model = accelerator.prepare(loss)
        optimizer = build_optimizer(loss, training)
        plan = plan_windows(training, config.seed, cache)
        length = RunLength(start.span.total_steps, plan.windows_per_epoch)
        schedule = build_schedule(
            training.schedule,
            peak=training.learning_rate,
            warmup_steps=training.warmup_steps,
            schedule_steps=start.span.schedule_steps,
        )
        step = build_step(model, optimizer, accelerator, schedule, training, config.seed)
        return cls(config, cache, machinery, accelerator, loss, step, plan, length, run_folder, start, base)

    def halve_micro_batches(self, window: Window) -> bool:
        """Makes the micro-batches of all coming windows half as large, if that cuts the window further.

        Returns:
            False where each micro-batch of the window is a single example, or where a window may not be cut.
        """
        if self.config.training.update_in_backward or self.accelerator.num_processes > 1:
            return False
        largest = max(window.micro_batches, key=lambda micro_batch: micro_batch.num_tokens)
        if len(largest.indices) == 1:
            return False
        # Half of what was there: the budget may have been far larger.
        tokens = max(min(self.machinery.micro_batch_tokens, largest.num_tokens) // 2, 1)
        self.machinery = replace(self.machinery, micro_batch_tokens=tokens)
        return True

    def windows(self, start_step: int) -> WindowLoader:
        """Returns this process's share of every window from a step on."""
        return WindowLoader(
            self.cache.split("train"),
            self.plan,
            None if self.config.training.update_in_backward else self.machinery.micro_batch_tokens,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            start_step,
            self.length.total_steps,
            is_padded=self.loss.is_padded,
        )

    @property
    def checkpoints_folder(self) -> Path:
        """Where the run's checkpoints are."""
        return self.run_folder / "checkpoints"

    def evaluator(
        self, *, between_batches: Callable[[], None] | None = None, between_parts: Callable[[], None] | None = None
    ) -> Evaluator:
        """Returns the evaluator of the validation split.

        Args:
            between_batches: called when a batch has been evaluated.
            between_parts: called on every process alike when a part of the evaluation is done.
        """
        return Evaluator(
            self.cache,
            ("validation",),
            self.config.evaluation,
            max_source_tokens=self.config.data.max_source_tokens,
            batch_tokens=self.machinery.micro_batch_tokens,
            generation_tokens=generation_budget(self.config, self.machinery, is_training=True),
            accelerator=self.accelerator,
            between_batches=between_batches,
            between_parts=between_parts,
        )

    def fingerprints(self) -> Fingerprints:
        """Returns what a checkpoint is only valid with."""
        return {"data": self.cache.fingerprint, "tokenizer": self.cache.tokenizer.fingerprint, "base": self.base}

    def write_checkpoint(self, trainer: Trainer, sync_journal: Callable[[], None] | None) -> Path | None:
        """Writes the present state; called on every process, done by the main one, whose failure all of them raise.

        Args:
            trainer: whose state it is.
            sync_journal: puts everything that was logged on the disk; None on every process but the main one.

        Returns:
            The checkpoint on the main process, None on the others.

        Raises:
            CheckpointError: if the disk refuses.
        """
        written: Path = from_main_process(lambda: self._write(trainer, sync_journal), device=self.machinery.device)
        return written if self.accelerator.is_main_process else None

    def _write(self, trainer: Trainer, sync_journal: Callable[[], None] | None) -> Path:
        try:
            # A run that goes on from a checkpoint logs nothing again that came before it.
            if sync_journal is not None:
                sync_journal()
        except OSError as error:
            raise CheckpointError(
                f"{error.filename}: {reason_of(error)}, so step {trainer.state.step} is not saved; earlier checkpoints "
                "are intact"
            ) from None
        return checkpoint.write_checkpoint(
            self.checkpoints_folder,
            trainer.state.step,
            weights_file=weights_file(self.loss.network),
            weights=tuned_state(self.loss.network),
            optimizer=named_optimizer_state(self.loss, self.step.optimizer),
            state={
                **trainer.state_dict(),
                "schema_version": SCHEMA_VERSION,
                **asdict(self.start.span),
                "config": self.config.model_dump(mode="json"),
                "machinery": self.machinery.to_dict(),
                "fingerprints": self.fingerprints(),
            },
            describe=self._describe_model,
        )

    def find_checkpoint(self, *, is_strict: bool, report: Callable[[str], None]) -> Checkpoint | None:
        """Returns the newest checkpoint that is whole, the same one on every process; None without any.

        Every process hashes each file that it reads, once.

        Args:
            is_strict: whether a damaged newest one is refused instead of passed over.
            report: gets one line for each damaged one that is passed over, on the main process.

        Raises:
            CheckpointError: if all are damaged, or the newest one is and that is refused.
        """
        name = weights_file(self.loss.network)
        found: list[Checkpoint] = []

        def find() -> Path | None:
            newest = checkpoint.find_newest(self.checkpoints_folder, name, is_strict=is_strict, report=report)
            if newest is not None:
                found.append(newest)
            return newest.path if newest is not None else None

        path: Path | None = from_main_process(find, device=self.machinery.device)
        if path is not None and not found:
            found.append(checkpoint.read_checkpoint(path, name))
        return found[0] if found else None

    def restore(self, trainer: Trainer, found: Checkpoint) -> None:
        """Puts the state of a checkpoint back.

        Raises:
            CheckpointError: if a later version wrote it.
            ResumeError: if it was made with other data, another tokenizer or another base than this run ever had.
        """
        state = migrate_state(found.state, str(found.path))
        refuse_foreign_checkpoint(
            found.path, state["fingerprints"], self.fingerprints(), self.start.fingerprints, self.config
        )
        load_tuned_state(self.loss.network, found.weights)
        load_named_optimizer_state(self.loss, self.step.optimizer, found.optimizer)
        trainer.load_state_dict(state)

    def _describe_model(self, folder: Path) -> None:
        describe_model(self.loss.network, folder, base=self.base)
        self.cache.tokenizer.save(folder)
