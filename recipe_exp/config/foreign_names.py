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
_MODEL = Answer("model.name", "or choose a size with model=flan_t5_base")
_LORA = Answer("training=lora")
_RANK = Answer("training.adapter.rank", "with training=lora")
_ALPHA = Answer("training.adapter.alpha", "with training=lora")
_LORA_DROPOUT = Answer("training.adapter.dropout", "with training=lora")
_TARGETS = Answer("training.adapter.targets", "with training=lora")
_WEBHOOK = Answer("tracking.notify", "names of environment variables that hold the addresses")
_EPOCHS = Answer("training.num_epochs")
_LEARNING_RATE = Answer("training.learning_rate")
_WARMUP = Answer("training.warmup_steps")
_WARMUP_SHARE = Answer("training.warmup_steps", "steps instead of a share of them")
_WEIGHT_DECAY = Answer("training.weight_decay")
_CLIPPING = Answer("training.max_grad_norm")
_LABEL_SMOOTHING = Answer("training.label_smoothing")
_OPTIMIZER = Answer("training/optimizer=adamw|adamw_8bit|adafactor")
_SCHEDULE = Answer("training/schedule=linear|cosine|cosine_with_restarts|constant|inverse_square_root")
_PATIENCE = Answer("training.early_stopping_patience", "counts evaluations")
_MIN_IMPROVEMENT = Answer("training.early_stopping_threshold")
_CHECKPOINTS = Answer("training.checkpoint_every_n_steps")
_KEPT = Answer("training.keep_best_n_checkpoints", "the newest is kept as well")
_BEST_AT_END = Answer("training.keep_best_n_checkpoints", "model/ of a run is always its best checkpoint")
_WHOLE_CHECKPOINT = Answer(None, "a checkpoint holds all that resuming needs; model/ of a run is the model alone")
_RESUME = Answer("resume=latest")
_LOG_STEPS = Answer("training.log_every_n_steps")
_EVALUATION_STEPS = Answer("evaluation.every_n_steps")
_BEST_METRIC = Answer("evaluation.best_metric")
_BEST_MODE = Answer("evaluation.best_mode", "min or max")
_SOURCE = Answer("data.max_source_tokens")
_TARGET = Answer("data.max_target_tokens")
_DATA = Answer("data.path", "with data=files")
_VALIDATION = Answer("data.validation_fraction", "validation recipes are chosen by a hash of their title")
_TEST = Answer("data.test_fraction", "test recipes are chosen by a hash of their title")
_PROMPT = Answer("data.prompt", "a template's name, or a text with {title} and {ingredients}")
_CURRICULUM = Answer("training.curriculum")
_EXAMPLES = Answer("data.max_examples")
_COLUMNS = Answer(None, "a record has title, ingredients and instructions, or input and output")
_BF16 = Answer("training.precision=bf16")
_FP16 = Answer("training.precision=bf16", "T5's activations overflow in fp16")
_PRECISION = Answer("training.precision")
_GRADIENT_CHECKPOINTING = Answer("model.gradient_checkpointing")
_ATTENTION = Answer("model.attention")
_FLASH = Answer("model.attention", "flash attention cannot add T5's position bias")
_COMPILE = Answer("hardware.compile")
_PROCESSES = Answer("hardware.num_processes")
_SHARDED = Answer(None, "processes are data-parallel: hardware.num_processes")
_LOADER = Answer(None, "the data are tokenized once; the next window is prepared while one runs")
_WORKERS = Answer("hardware.num_workers", "threads that tokenize; the next window is always prepared while one runs")
_TRACKER = Answer("tracking=mlflow|journal_only")
_OTHER_TRACKER = Answer("tracking=mlflow|journal_only", "MLflow is the tracker")
_TRACKED_EXPERIMENT = Answer("tracking.experiment")
_UPLOAD = Answer(None, "model/ of a run can be uploaded with any tool")
_SECRET = Answer(None, "secrets come from the environment or .env, never from a configuration")
_QUANTIZED = Answer("training=qlora", "training.adapter.quantization=nf4, always with double quantisation")
_EIGHT_BIT = Answer("training=qlora", "a base is quantised to 4 bits or not at all")
_PLAIN_LORA = Answer(None, "every adapted layer has the same rank and scale, and nothing else is tuned")
_PATTERN = Answer("training.adapter.targets", "names of modules, each the end of a dotted one")
_FOLDERS = Answer(None, "each run has a folder of its own under output_dir, and none overwrites another")

TRANSFORMERS: dict[str, Answer] = {
    "optim": _OPTIMIZER,
    "adafactor": Answer("training/optimizer=adafactor"),
    "adam_beta1": Answer("training.optimizer.beta1"),
    "adam_beta2": Answer("training.optimizer.beta2"),
    "adam_epsilon": Answer("training.optimizer.epsilon"),
    "optim_args": Answer(None, "an optimizer is a group with keys of its own"),
    "learning_rate": _LEARNING_RATE,
    "lr": _LEARNING_RATE,
    "lr_scheduler_type": _SCHEDULE,
    "lr_scheduler_kwargs": Answer(None, "a schedule is a group with keys of its own"),
    "warmup_steps": _WARMUP,
    "warmup_ratio": _WARMUP_SHARE,
    "weight_decay": _WEIGHT_DECAY,
    "max_grad_norm": _CLIPPING,
    "label_smoothing_factor": _LABEL_SMOOTHING,
    "num_train_epochs": _EPOCHS,
    "max_steps": Answer("training.max_steps"),
    "per_device_train_batch_size": _BATCH,
    "train_batch_size": _BATCH,
    "gradient_accumulation_steps": _BATCH,
    "per_device_eval_batch_size": _MICRO_BATCH,
    "eval_batch_size": _MICRO_BATCH,
    "auto_find_batch_size": _MICRO_BATCH,
    "eval_steps": _EVALUATION_STEPS,
    "eval_strategy": _EVALUATION_STEPS,
    "evaluation_strategy": _EVALUATION_STEPS,
    "do_eval": _EVALUATION_STEPS,
    "do_predict": Answer("task=evaluate", "with task.split=test"),
    "do_train": Answer("task=train"),
    "eval_accumulation_steps": Answer(None, "evaluation keeps sums, not predictions"),
    "eval_delay": Answer(None, "evaluation begins after evaluation.every_n_steps"),
    "eval_on_start": Answer(None, "evaluation begins after evaluation.every_n_steps"),
    "predict_with_generate": Answer("evaluation.max_generated_examples"),
    "generation_max_length": Answer("evaluation.max_new_tokens"),
    "generation_num_beams": Answer("evaluation.num_beams"),
    "max_eval_samples": Answer("evaluation.max_examples"),
    "max_train_samples": _EXAMPLES,
    "metric_for_best_model": _BEST_METRIC,
    "greater_is_better": _BEST_MODE,
    "load_best_model_at_end": _BEST_AT_END,
    "early_stopping_patience": _PATIENCE,
    "early_stopping_threshold": _MIN_IMPROVEMENT,
    "logging_steps": _LOG_STEPS,
    "logging_strategy": _LOG_STEPS,
    "logging_dir": Answer("output_dir"),
    "output_dir": Answer("output_dir"),
    "logging_nan_inf_filter": Answer("training.on_non_finite"),
    "save_steps": _CHECKPOINTS,
    "save_strategy": _CHECKPOINTS,
    "save_total_limit": _KEPT,
    "save_only_model": _WHOLE_CHECKPOINT,
    "save_safetensors": Answer(None, "weights are always saved as safetensors"),
    "resume_from_checkpoint": _RESUME,
    "ignore_data_skip": Answer(None, "resuming always continues at the same window"),
    "overwrite_output_dir": _FOLDERS,
    "bf16": _BF16,
    "bf16_full_eval": _BF16,
    "fp16": _FP16,
    "fp16_full_eval": _FP16,
    "fp16_opt_level": _FP16,
    "tf32": Answer("training.precision=tf32"),
    "torch_dtype": _PRECISION,
    "gradient_checkpointing": _GRADIENT_CHECKPOINTING,
    "gradient_checkpointing_kwargs": Answer(None, "model.gradient_checkpointing needs no further settings"),
    "attn_implementation": _ATTENTION,
    "torch_compile": _COMPILE,
    "torch_compile_backend": _COMPILE,
    "torch_compile_mode": _COMPILE,
    "use_cpu": Answer("hardware.device=cpu"),
    "no_cuda": Answer("hardware.device=cpu"),
    "device_map": Answer(None, "each process holds a whole model on one device: hardware.device"),
    "ddp_find_unused_parameters": Answer(None, "every parameter takes part in every step"),
    "deepspeed": _SHARDED,
    "fsdp": _SHARDED,
    "fsdp_config": _SHARDED,
    "parallelism_config": _SHARDED,
    "ddp_backend": Answer(None, "hardware.num_processes starts the processes and connects them"),
    "local_rank": Answer(None, "hardware.num_processes starts the processes and connects them"),
    "average_tokens_across_devices": Answer(
        None, "the loss is always an average over the target tokens of all processes"
    ),
    "dataloader_num_workers": _WORKERS,
    "preprocessing_num_workers": _WORKERS,
    "dataloader_pin_memory": _LOADER,
    "dataloader_prefetch_factor": _LOADER,
    "dataloader_persistent_workers": _LOADER,
    "dataloader_drop_last": Answer(None, "an epoch uses every example"),
    "group_by_length": Answer(None, "windows are uniform samples; inside a window micro-batches are sorted by length"),
    "data_seed": Answer("seed"),
    "full_determinism": Answer(None, "on a CPU the same configuration gives the same numbers"),
    "pad_to_max_length": Answer(None, "only what a micro-batch needs is padded"),
    "ignore_pad_token_for_loss": Answer(None, "padding never counts in the loss"),
    "text_column": _COLUMNS,
    "summary_column": _COLUMNS,
    "remove_unused_columns": _COLUMNS,
    "source_prefix": _PROMPT,
    "max_source_length": _SOURCE,
    "max_target_length": _TARGET,
    "val_max_target_length": _TARGET,
    "train_file": _DATA,
    "dataset_name": _DATA,
    "validation_file": _VALIDATION,
    "validation_split_percentage": _VALIDATION,
    "test_file": _TEST,
    "model_name_or_path": _MODEL,
    "model_revision": Answer("model.revision"),
    "tokenizer_name": Answer(None, "the tokenizer is the one of model.name"),
    "use_fast_tokenizer": Answer(None, "the tokenizer is the one of model.name"),
    "trust_remote_code": Answer(
        None, "it is always off: no code of a model is ever run, and the network is a T5 of transformers itself"
    ),
    "report_to": _TRACKER,
    "push_to_hub": _UPLOAD,
    "hub_model_id": _UPLOAD,
    "hub_strategy": _UPLOAD,
    "hub_token": _SECRET,
    "use_auth_token": _SECRET,
}
"""`transformers.Seq2SeqTrainingArguments` and its example scripts."""
PEFT: dict[str, Answer] = {
    "r": _RANK,
    "lora_r": _RANK,
    "lora_rank": _RANK,
    "lora_alpha": _ALPHA,
    "lora_dropout": _LORA_DROPOUT,
    "target_modules": _TARGETS,
    "lora_target_modules": _TARGETS,
    "peft_type": _LORA,
    "use_peft": _LORA,
    "init_lora_weights": Answer("training.adapter.init", "lora or pissa"),
    "loraplus_lr_ratio": Answer("training.adapter.learning_rate_ratio"),
    "lora_plus_ratio": Answer("training.adapter.learning_rate_ratio"),
    "lora_bias": Answer(None, "biases are not tuned; T5 has none in its linear layers"),
    "task_type": Answer(None, "the task is always sequence to sequence"),
    "base_model_name_or_path": _MODEL,
    "use_dora": Answer("training.adapter.dora", "or training=dora"),
    "use_rslora": Answer("training.adapter.rslora", "or training=rslora"),
    "rank_pattern": _PLAIN_LORA,
    "alpha_pattern": _PLAIN_LORA,
    "modules_to_save": _PLAIN_LORA,
    "layers_to_transform": _PATTERN,
    "layers_pattern": _PATTERN,
    "exclude_modules": _PATTERN,
    "load_in_4bit": _QUANTIZED,
    "load_in_8bit": _EIGHT_BIT,
    "loftq_config": Answer(
        None, "a quantised base is taken as it is; training.adapter.init=pissa is for one that is not"
    ),
    "bnb_4bit_compute_dtype": _QUANTIZED,
    "bnb_4bit_quant_type": _QUANTIZED,
    "bnb_4bit_use_double_quant": _QUANTIZED,
    "quantization_config": _QUANTIZED,
}
"""`peft.LoraConfig`, and quantisation beside it."""
OLD_FLAGS: dict[str, Answer] = {
    "model_name": _MODEL,
    "model_path": _MODEL,
    "attention_implementation": _ATTENTION,
    "use_flash_attention": _FLASH,
    "use_flash_attention_2": _FLASH,
    "use_gradient_checkpointing": _GRADIENT_CHECKPOINTING,
    "use_torch_compile": _COMPILE,
    "compile_model": _COMPILE,
    "use_lora": _LORA,
    "use_qlora": _QUANTIZED,
    "use_8bit": _EIGHT_BIT,
    "use_4bit": _QUANTIZED,
    "batch_size": _BATCH,
    "effective_batch_size": _BATCH,
    "epochs": _EPOCHS,
    "use_adafactor": Answer("training/optimizer=adafactor"),
    "optimizer_type": _OPTIMIZER,
    "scheduler": _SCHEDULE,
    "lr_scheduler": _SCHEDULE,
    "scheduler_type": _SCHEDULE,
    "gradient_clipping": _CLIPPING,
    "grad_clip": _CLIPPING,
    "use_label_smoothing": _LABEL_SMOOTHING,
    "use_bf16": _BF16,
    "use_fp16": _FP16,
    "mixed_precision": _PRECISION,
    "use_tf32": Answer("training.precision=tf32"),
    "data_dir": _DATA,
    "data_path": _DATA,
    "train_data": _DATA,
    "min_quality": Answer("data.min_quality_score"),
    "quality_threshold": Answer("data.min_quality_score"),
    "max_input_length": _SOURCE,
    "max_length": _TARGET,
    "max_output_length": _TARGET,
    "val_split": _VALIDATION,
    "validation_split": _VALIDATION,
    "test_split": _TEST,
    "max_samples": _EXAMPLES,
    "eval_every": _EVALUATION_STEPS,
    "validation_steps": _EVALUATION_STEPS,
    "sample_prompts": Answer("evaluation.validation_prompts"),
    "test_prompts": Answer("evaluation.validation_prompts"),
    "save_every": _CHECKPOINTS,
    "checkpoint_steps": _CHECKPOINTS,
    "checkpoint_dir": Answer("output_dir"),
    "log_dir": Answer("output_dir"),
    "resume_from": _RESUME,
    "auto_resume": _RESUME,
    "log_every": _LOG_STEPS,
    "log_steps": _LOG_STEPS,
    "patience": _PATIENCE,
    "num_workers": _WORKERS,
    "num_gpus": _PROCESSES,
    "distributed": _PROCESSES,
    "gpu_memory_gb": Answer("hardware.memory_gb"),
    "random_seed": Answer("seed"),
    "experiment_name": Answer("run_name"),
    "use_mlflow": _TRACKER,
    "mlflow_tracking_uri": Answer("tracking.uri"),
    "mlflow_uri": Answer("tracking.uri"),
    "use_wandb": _OTHER_TRACKER,
    "use_tensorboard": _OTHER_TRACKER,
    "wandb_project": _OTHER_TRACKER,
    "mlflow_experiment": _TRACKED_EXPERIMENT,
    "discord_webhook": _WEBHOOK,
    "slack_webhook": _WEBHOOK,
    "webhook_url": _WEBHOOK,
}
"""Flat flags of the old system."""
OLD_SECTIONS: dict[str, Answer] = {
    "optimization.learning_rate": _LEARNING_RATE,
    "optimization.batch_size": _BATCH,
    "optimization.gradient_accumulation_steps": _BATCH,
    "optimization.num_epochs": _EPOCHS,
    "optimization.max_steps": Answer("training.max_steps"),
    "optimization.warmup_steps": _WARMUP,
    "optimization.warmup_ratio": _WARMUP_SHARE,
    "optimization.weight_decay": _WEIGHT_DECAY,
    "optimization.max_grad_norm": _CLIPPING,
    "optimization.label_smoothing": _LABEL_SMOOTHING,
    "optimization.optimizer": _OPTIMIZER,
    "optimization.scheduler": _SCHEDULE,
    "optimization.lr_scheduler": _SCHEDULE,
    "optimization.precision": _PRECISION,
    "optimization.use_bf16": _BF16,
    "optimization.gradient_checkpointing": _GRADIENT_CHECKPOINTING,
    "optimization.compile": _COMPILE,
    "lora.enabled": _LORA,
    "lora.r": _RANK,
    "lora.rank": _RANK,
    "lora.alpha": _ALPHA,
    "lora.dropout": _LORA_DROPOUT,
    "lora.target_modules": _TARGETS,
    "lora.bias": Answer(None, "biases are not tuned; T5 has none in its linear layers"),
    "dataset.path": _DATA,
    "dataset.format": Answer("data=sample|jsonl"),
    "dataset.max_examples": _EXAMPLES,
    "dataset.min_quality_score": Answer("data.min_quality_score"),
    "dataset.max_source_length": _SOURCE,
    "dataset.max_target_length": _TARGET,
    "dataset.validation_fraction": _VALIDATION,
    "dataset.validation_split": _VALIDATION,
    "dataset.test_split": _TEST,
    "dataset.prompt": _PROMPT,
    "dataset.cache_dir": Answer("data.cache_dir"),
    "dataset.num_workers": _WORKERS,
    "dataset.shuffle": Answer(None, "every epoch is a permutation of its own, drawn from seed"),
    "dataset.pad_to_max_length": Answer(None, "only what a micro-batch needs is padded"),
    "checkpointing.output_dir": Answer("output_dir"),
    "checkpointing.save_every": _CHECKPOINTS,
    "checkpointing.save_steps": _CHECKPOINTS,
    "checkpointing.save_total_limit": _KEPT,
    "checkpointing.keep_best": _KEPT,
    "checkpointing.metric": _BEST_METRIC,
    "checkpointing.mode": _BEST_MODE,
    "checkpointing.resume": _RESUME,
    "checkpointing.save_optimizer": _WHOLE_CHECKPOINT,
    "monitoring.log_every": _LOG_STEPS,
    "monitoring.logging_steps": _LOG_STEPS,
    "monitoring.eval_steps": _EVALUATION_STEPS,
    "monitoring.discord_webhook": _WEBHOOK,
    "monitoring.slack_webhook": _WEBHOOK,
    "monitoring.use_mlflow": _TRACKER,
    "monitoring.mlflow_uri": Answer("tracking.uri"),
    "monitoring.experiment_name": _TRACKED_EXPERIMENT,
    "monitoring.use_wandb": _OTHER_TRACKER,
    "monitoring.early_stopping_patience": _PATIENCE,
    "monitoring.system_metrics": Answer("tracking.system_metrics"),
    "monitoring.log_dir": Answer("output_dir"),
    "system.seed": Answer("seed"),
    "system.device": Answer("hardware.device"),
    "system.num_gpus": _PROCESSES,
    "system.num_workers": _WORKERS,
    "system.compile": _COMPILE,
}
"""Keys of the old system's configuration files, with their sections."""
OTHERS: dict[str, Answer] = {
    "prompt_template": _PROMPT,
    "prompt_templates": Answer("data.prompts", "templates with weights; data.templates names one's own"),
    "curriculum_learning": _CURRICULUM,
    "curriculum_sampling": _CURRICULUM,
    "prepare.model": Answer("task.model", "with task=prepare"),
}
"""Keys that several other tools have."""
FOREIGN_NAMES = TRANSFORMERS | PEFT | OLD_FLAGS | OLD_SECTIONS | OTHERS


def answer(key: str, *, is_whole: bool = False) -> Answer | None:
    """Returns what stands here for a foreign key, looked up whole and then, unless `is_whole`, by its last part."""
    name = key.lower().replace("-", "_")
    return FOREIGN_NAMES.get(name) or (None if is_whole else FOREIGN_NAMES.get(name.rpartition(".")[2]))
