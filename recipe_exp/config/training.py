"""`training.`: the science of a run. Nothing here depends on the machine."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from recipe_exp.config.base import Count, Section, Strings, Text
from recipe_exp.config.lora_targets import PRESETS

Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Momentum = Annotated[float, Field(ge=0.0, lt=1.0)]
_MODULE_NAME = re.compile(r"\w+(?:\.\w+)*", re.ASCII)


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


class AdamW8bitConfig(Section):
    """AdamW with moments in 8 bits (Dettmers et al., 2022, https://arxiv.org/abs/2110.02861); needs bitsandbytes."""

    kind: Literal["adamw_8bit"] = "adamw_8bit"
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
    clip_threshold: Annotated[float, Field(ge=1.0)] = 1.0
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
    """Low-rank adaptation (Hu et al., 2021, https://arxiv.org/abs/2106.09685) and its variants.

    A layer computes W x + s B A x with s = alpha / rank.
    """

    kind: Literal["lora"] = "lora"
    """Selects LoRA."""
    rank: Count = 16
    """Rank of the update."""
    alpha: Positive = 32.0
    """The update is scaled by alpha / rank, with `rslora` by alpha / sqrt(rank)."""
    dropout: Momentum = 0.05
    """Dropout probability on the adapter's input."""
    targets: Literal["attention_qv", "attention", "all_linear"] | Strings = "attention_qv"
    """Which linear layers get an update: q and v; q, k, v and o; these and the feed-forward layers; or a list of module
    names, each the end of a dotted one, such as [q,wo] or [SelfAttention.q]."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank), so that a larger rank learns no slower (https://arxiv.org/abs/2312.03732)."""
    dora: bool = False
    """Tune each output's magnitude beside the direction (https://arxiv.org/abs/2402.09353)."""
    init: Literal["lora", "pissa"] = "lora"
    """`lora` starts at no update; `pissa` at the principal components of each matrix, which leave the frozen base
    (https://arxiv.org/abs/2404.02948)."""
    learning_rate_ratio: Positive | None = None
    """LoRA+: rate of B over that of A, which is `training.learning_rate` (https://arxiv.org/abs/2402.12354); null
    is 1."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4` holds the frozen attention and wi matrices in 4-bit NormalFloat, their scales quantised again
    (https://arxiv.org/abs/2305.14314); it needs bitsandbytes."""
    start_from: Text | None = None
    """A run whose adapter this one begins with: a run id, a folder or `latest`. Base, rank, targets, scale and variant
    have to be the same. The run's folder is stored."""

    @field_validator("targets", mode="before")
    @classmethod
    def _refuse_unknown_targets(cls, value: object) -> object:
        presets = ", ".join(PRESETS)
        if isinstance(value, str) and value not in PRESETS:
            raise ValueError(f"{value} is none of {presets}; a module's name is written [{value}]")
        names = list(value) if isinstance(value, list | tuple) else []
        if not names and not isinstance(value, str):
            raise ValueError(f"must be one of {presets}, or a list of module names such as [q,wo]")
        for name in names:
            if name in PRESETS:
                raise ValueError(f"{name} is no module; write targets={name} without brackets")
            if not isinstance(name, str) or not _MODULE_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no module's name; write such as [q,wo] or [SelfAttention.q]")
        return value

    @property
    def scale(self) -> float:
        """What the product of the two factors is multiplied by."""
        return float(self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank))


OptimizerConfig = Annotated[AdamWConfig | AdamW8bitConfig | AdafactorConfig, Field(discriminator="kind")]
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
    weights_dtype: Literal["fp32", "bf16"] = "fp32"
    """Type in which the weights that are tuned, their gradients and AdamW's moments are held. `bf16` halves them; every
    update is rounded stochastically, so that small ones are kept on average."""
    update_in_backward: bool = False
    """Update each weight as soon as the backward pass has its gradient, and let the gradient go: there is never one of
    the whole model. Then a window is one micro-batch, gradients are not clipped, and a step cannot be skipped."""
    optimizer: OptimizerConfig
    """Chosen with `training/optimizer=adamw|adamw_8bit|adafactor`."""
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
