"""`training.`: the science of a run. Nothing here depends on the machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from recipe_exp.config.base import Count, Section, Strings

Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Momentum = Annotated[float, Field(ge=0.0, lt=1.0)]


class AdamWConfig(Section):
    """AdamW (Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    """Selects this optimizer."""
    beta1: Momentum = 0.9
    """Decay of the first moment."""
    beta2: Momentum = 0.999
    """Decay of the second moment."""
    epsilon: Positive = 1e-8
    """Added to the square root of the second moment."""


class AdafactorConfig(Section):
    """Adafactor with factored second moments (Shazeer and Stern, 2018, https://arxiv.org/abs/1804.04235).

    The rate is relative: a step changes a weight by `learning_rate` times the root mean square of its matrix.
    """

    kind: Literal["adafactor"] = "adafactor"
    """Selects this optimizer."""
    beta2_decay: Annotated[float, Field(lt=0.0)] = -0.8
    """Exponent of the second moment's decay over the step number."""
    clip_threshold: Positive = 1.0
    """Updates with a larger root mean square are scaled down to it."""


class LinearScheduleConfig(Section):
    """Linear decay to zero after the warm-up."""

    kind: Literal["linear"] = "linear"
    """Selects this schedule."""


class CosineScheduleConfig(Section):
    """Half a cosine from the peak to `min_ratio` after the warm-up."""

    kind: Literal["cosine"] = "cosine"
    """Selects this schedule."""
    min_ratio: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Share of `training.learning_rate` that the rate has fallen to when the run ends."""


class CosineRestartsScheduleConfig(Section):
    """Cosine decay to zero that starts again `num_cycles` times (https://arxiv.org/abs/1608.03983)."""

    kind: Literal["cosine_with_restarts"] = "cosine_with_restarts"
    """Selects this schedule."""
    num_cycles: Count = 3
    """Number of decays between warm-up and end."""


class ConstantScheduleConfig(Section):
    """The peak rate after the warm-up."""

    kind: Literal["constant"] = "constant"
    """Selects this schedule."""


class InverseSquareRootScheduleConfig(Section):
    """Decay with the inverse square root of the step, T5's pretraining schedule."""

    kind: Literal["inverse_square_root"] = "inverse_square_root"
    """Selects this schedule."""
    timescale: Count | None = None
    """Steps after the warm-up in which the rate falls to 1/sqrt(2); null takes `warmup_steps`, at least 1."""


class NoAdapterConfig(Section):
    """Every weight of the model is tuned."""

    kind: Literal["none"] = "none"
    """Selects full tuning."""


class LoraConfig(Section):
    """Low-rank adaptation (Hu et al., 2021, https://arxiv.org/abs/2106.09685)."""

    kind: Literal["lora"] = "lora"
    """Selects LoRA."""
    rank: Count = 16
    """Rank of the update."""
    alpha: Positive = 32.0
    """The update is scaled by alpha / rank."""
    dropout: Momentum = 0.05
    """Dropout probability on the adapter's input."""
    targets: Literal["attention_qv", "attention", "all_linear"] = "attention_qv"
    """Which linear layers get an update: q and v; q, k, v and o; or these and the feed-forward layers."""


OptimizerConfig = Annotated[AdamWConfig | AdafactorConfig, Field(discriminator="kind")]
ScheduleConfig = Annotated[
    LinearScheduleConfig
    | CosineScheduleConfig
    | CosineRestartsScheduleConfig
    | ConstantScheduleConfig
    | InverseSquareRootScheduleConfig,
    Field(discriminator="kind"),
]
AdapterConfig = Annotated[NoAdapterConfig | LoraConfig, Field(discriminator="kind")]


class TrainingConfig(Section):
    """The science of a run. Every counter, interval and schedule counts optimizer steps."""

    batch_size: Count = 32
    """Examples of one step, over all processes."""
    num_epochs: Count = 3
    """Passes over the training split; `max_steps` may end the run earlier."""
    max_steps: Count | None = None
    """Steps after which the run ends; the smaller of this and `num_epochs` wins."""
    curriculum: Literal["none", "short_first", "quality_first"] = "none"
    """Order of the first epoch: `short_first` begins with recipes of few target tokens, `quality_first` with those of
    high quality scores, both with much noise. Later epochs are uniform, as all are with `none`."""
    stop_after_hours: Annotated[float, Field(gt=0.0, le=1e6)] | None = None
    """Save, mark the run as interrupted and stop with exit code 75 after this many hours; `resume=latest` goes on."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 5e-4
    """Peak learning rate, reached at the end of the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Steps of linear warm-up from zero."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay; layer norms and position biases are exempt."""
    max_grad_norm: Positive | None = 1.0
    """Gradients with a larger global 2-norm are scaled down to it; null does not clip."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability mass spread evenly over the vocabulary in the training loss; `eval/loss` is never smoothed."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """`bf16` computes matrix products in bfloat16 over fp32 weights; `auto` takes it where the GPU is fast at it."""
    optimizer: OptimizerConfig
    """Chosen with `training/optimizer=adamw|adafactor`."""
    schedule: ScheduleConfig
    """Chosen with `training/schedule=linear|cosine|cosine_with_restarts|constant|inverse_square_root`."""
    adapter: AdapterConfig
    """Chosen with `training/adapter=none|lora`."""
    log_every_n_steps: Count = 10
    """Steps between two logged points; losses are averaged over all target tokens between them."""
    checkpoint_every_n_steps: Count | None = 500
    """Steps between two checkpoints; null saves only at evaluated steps among the best and at the end."""
    keep_best_n_checkpoints: Count = 1
    """Best checkpoints kept beside the newest."""
    early_stopping_patience: Count | None = None
    """Evaluations without improvement of `evaluation.best_metric` after which the run ends; null never stops."""
    early_stopping_threshold: NonNegative = 0.0
    """A smaller improvement does not count for early stopping."""
    on_non_finite: Literal["stop", "skip_step", "rollback"] = "stop"
    """What a NaN or infinite gradient does: `stop` ends the run, `skip_step` goes on without that step, `rollback` goes
    back to the last good checkpoint and on after the step. The weights are never updated with it. An exploding loss
    rolls back or stops."""
    max_loss_increase: Positive | None = 3.0
    """The loss explodes when its mean between two logged points lies this many nats a target token above the lowest
    such mean so far; 3 is 20 times the perplexity. null lets it rise."""
    callbacks: Strings = ()
    """Callbacks of one's own, as `module:Class`."""

    @field_validator("precision", mode="before")
    @classmethod
    def _refuse_fp16(cls, value: object) -> object:
        if value in ("fp16", "float16", 16):
            raise ValueError("T5's activations overflow in fp16; use bf16, or fp32 on a GPU without it")
        return value

    @field_validator("callbacks")
    @classmethod
    def _callbacks_are_importable_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            module, _, attribute = name.partition(":")
            if not all(part.isidentifier() for part in module.split(".")) or not attribute.isidentifier():
                raise ValueError(f"{name!r} is not of the form module:Class")
        return value
