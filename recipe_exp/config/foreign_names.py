"""Keys of other tools, and the key that does the same here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """What to use instead of a key from elsewhere.

    Attributes:
        here: the key or group choice of this project, or None where nothing corresponds.
        note: why, or how the meaning differs; may be empty.
    """

    here: str | None
    note: str = ""

    def __str__(self) -> str:
        parts = [f"here it is {self.here}" if self.here else "", self.note]
        return "; ".join(part for part in parts if part)


_BATCH = Answer(
    "training.batch_size",
    "examples of one step over all processes; accumulation follows from hardware.micro_batch_tokens",
)
_MICRO_BATCH = Answer("hardware.micro_batch_tokens", "tokens instead of examples; auto fills the memory")
_LORA = Answer("training=lora")
_WEBHOOK = Answer(None, "there is no notification key; follow a run in the MLflow UI or in its metrics.jsonl")
_CHECKPOINTS = Answer("training.checkpoint_every_n_steps")
_SOURCE = Answer("data.max_source_tokens")
_TARGET = Answer("data.max_target_tokens")
_FP16 = Answer("training.precision=bf16", "T5's activations overflow in fp16")
_BEST_MODE = Answer("evaluation.best_mode", "min or max")
_QUANTIZED = Answer(None, "quantised base models are not supported; training=lora needs the least memory")

FOREIGN_NAMES: dict[str, Answer] = {
    # transformers.Seq2SeqTrainingArguments
    "adafactor": Answer("training/optimizer=adafactor"),
    "adam_beta1": Answer("training.optimizer.beta1"),
    "adam_beta2": Answer("training.optimizer.beta2"),
    "adam_epsilon": Answer("training.optimizer.epsilon"),
    "auto_find_batch_size": _MICRO_BATCH,
    "bf16": Answer("training.precision=bf16"),
    "dataloader_num_workers": Answer("hardware.num_workers", "the next window is always prepared while one runs"),
    "ddp_find_unused_parameters": Answer(None, "every parameter takes part in every step"),
    "deepspeed": Answer(None, "processes are data-parallel: hardware.num_processes"),
    "do_eval": Answer("evaluation.every_n_steps"),
    "do_train": Answer("task=train"),
    "early_stopping_patience": Answer("training.early_stopping_patience", "counts evaluations"),
    "early_stopping_threshold": Answer("training.early_stopping_threshold"),
    "eval_accumulation_steps": Answer(None, "evaluation keeps sums, not predictions"),
    "eval_steps": Answer("evaluation.every_n_steps"),
    "eval_strategy": Answer("evaluation.every_n_steps"),
    "evaluation_strategy": Answer("evaluation.every_n_steps"),
    "fp16": _FP16,
    "fsdp": Answer(None, "processes are data-parallel: hardware.num_processes"),
    "generation_max_length": Answer("evaluation.max_new_tokens"),
    "generation_num_beams": Answer("evaluation.num_beams"),
    "gradient_accumulation_steps": _BATCH,
    "gradient_checkpointing": Answer("model.gradient_checkpointing"),
    "greater_is_better": _BEST_MODE,
    "group_by_length": Answer(None, "windows are uniform samples; inside a window micro-batches are sorted by length"),
    "label_smoothing_factor": Answer("training.label_smoothing"),
    "load_best_model_at_end": Answer(
        "training.keep_best_n_checkpoints", "model/ of a run is always its best checkpoint"
    ),
    "logging_dir": Answer("output_dir"),
    "logging_steps": Answer("training.log_every_n_steps"),
    "lr": Answer("training.learning_rate"),
    "lr_scheduler_type": Answer("training/schedule=linear|cosine|cosine_with_restarts|constant|inverse_square_root"),
    "max_grad_norm": Answer("training.max_grad_norm"),
    "max_steps": Answer("training.max_steps"),
    "metric_for_best_model": Answer("evaluation.best_metric"),
    "model_name_or_path": Answer("model.name", "or choose a size with model=flan_t5_base"),
    "num_train_epochs": Answer("training.num_epochs"),
    "optim": Answer("training/optimizer=adamw|adafactor"),
    "output_dir": Answer("output_dir"),
    "overwrite_output_dir": Answer(None, "a run never overwrites another; each has a folder of its own"),
    "per_device_eval_batch_size": _MICRO_BATCH,
    "per_device_train_batch_size": _BATCH,
    "predict_with_generate": Answer("evaluation.max_generated_examples"),
    "push_to_hub": Answer(None, "model/ of a run can be uploaded with any tool"),
    "report_to": Answer("tracking=mlflow|journal_only"),
    "resume_from_checkpoint": Answer("resume=latest"),
    "save_steps": _CHECKPOINTS,
    "save_strategy": _CHECKPOINTS,
    "save_total_limit": Answer("training.keep_best_n_checkpoints", "the newest is kept as well"),
    "tf32": Answer("training.precision=tf32"),
    "torch_compile": Answer("hardware.compile"),
    "train_batch_size": _BATCH,
    "train_file": Answer("data.path", "with data=jsonl"),
    "validation_file": Answer("data.validation_fraction", "validation recipes are chosen by a hash of their title"),
    "val_split": Answer("data.validation_fraction"),
    "warmup_ratio": Answer("training.warmup_steps"),
    # peft.LoraConfig
    "init_lora_weights": Answer(None, "adapters start at zero update, as in the LoRA paper"),
    "load_in_4bit": _QUANTIZED,
    "load_in_8bit": _QUANTIZED,
    "lora_alpha": Answer("training.adapter.alpha", "with training=lora"),
    "lora_dropout": Answer("training.adapter.dropout", "with training=lora"),
    "lora_r": Answer("training.adapter.rank", "with training=lora"),
    "lora_rank": Answer("training.adapter.rank", "with training=lora"),
    "lora_target_modules": Answer("training.adapter.targets", "with training=lora"),
    "r": Answer("training.adapter.rank", "with training=lora"),
    "target_modules": Answer("training.adapter.targets", "with training=lora"),
    # the old system's flat flags
    "attn_implementation": Answer("model.attention"),
    "batch_size": _BATCH,
    "data_dir": Answer("data.path", "with data=jsonl"),
    "discord_webhook": _WEBHOOK,
    "epochs": Answer("training.num_epochs"),
    "max_input_length": _SOURCE,
    "max_length": _TARGET,
    "max_output_length": _TARGET,
    "max_source_length": _SOURCE,
    "max_target_length": _TARGET,
    "min_quality": Answer("data.min_quality_score"),
    "mixed_precision": Answer("training.precision"),
    "model_name": Answer("model.name", "or choose a size with model=flan_t5_base"),
    "num_gpus": Answer("hardware.num_processes"),
    "num_workers": Answer("hardware.num_workers"),
    "random_seed": Answer("seed"),
    "slack_webhook": _WEBHOOK,
    "use_8bit": _QUANTIZED,
    "use_bf16": Answer("training.precision=bf16"),
    "use_flash_attention": Answer("model.attention", "flash attention cannot add T5's position bias"),
    "use_fp16": _FP16,
    "use_gradient_checkpointing": Answer("model.gradient_checkpointing"),
    "use_lora": _LORA,
    "use_mlflow": Answer("tracking=mlflow|journal_only"),
    "use_qlora": _QUANTIZED,
    "use_wandb": Answer("tracking=mlflow|journal_only", "MLflow is the tracker"),
    "wandb_project": Answer("tracking.experiment", "MLflow is the tracker"),
    "webhook_url": _WEBHOOK,
    "weight_decay": Answer("training.weight_decay"),
}


def answer(key: str, *, is_whole: bool = False) -> Answer | None:
    """Returns what stands here for a foreign key, looked up whole and then, unless `is_whole`, by its last part."""
    name = key.lower().replace("-", "_")
    return FOREIGN_NAMES.get(name) or (None if is_whole else FOREIGN_NAMES.get(name.rpartition(".")[2]))
