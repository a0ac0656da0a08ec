"""How long a run takes, from its arithmetic and what the device does of it in a second."""

from __future__ import annotations

from dataclasses import dataclass

from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.planning.flops import (
    ASSUMED_UTILISATION,
    ForwardFlops,
    forward_flops,
    seconds_per_step,
    training_flops,
)
from recipe_exp.planning.lengths import Lengths
from recipe_exp.planning.remedies import Setup


@dataclass(frozen=True)
class MeasuredSpeed:
    """What an earlier run reached.

    Attributes:
        flops_per_second: of training, counted as a plan counts them, of one device.
        run: its name.
    """

    flops_per_second: float
    run: str


@dataclass(frozen=True)
class Timing:
    """How long a run takes.

    Attributes:
        mean_source_tokens: of an example.
        mean_target_tokens: of an example.
        lengths_are_estimated: whether these are typical of recipes instead of the data's own.
        flops_per_example: arithmetic of learning from one example.
        forward_flops: that of its forward pass: `encoder`, `decoder`, `cross_attention`, `scores`, `head`.
        assumed_utilisation: share of the matrix peak; None where the speed was measured or is not known.
        measured_by: the earlier run that measured the speed; None where it is assumed.
        seconds_per_step: None where neither the device's peak for the precision nor a speed is known.
        recipes_per_second: likewise.
        steps_per_epoch: None where the number of training examples is not known.
        hours_per_epoch: None where one of the two is not known.
    """

    mean_source_tokens: float
    mean_target_tokens: float
    lengths_are_estimated: bool
    flops_per_example: float
    forward_flops: dict[str, float]
    assumed_utilisation: float | None
    measured_by: str | None
    seconds_per_step: float | None
    recipes_per_second: float | None
    steps_per_epoch: int | None
    hours_per_epoch: float | None

    def steps_within(self, hours: float) -> int | None:
        """Returns the steps that a run of so many hours takes, evaluation left out."""
        return None if self.seconds_per_step is None else int(hours * 3600 / self.seconds_per_step)


def estimate_timing(
    setup: Setup, hardware: HardwareConfig, lengths: Lengths, measured: MeasuredSpeed | None = None
) -> Timing:
    """Returns how long steps and epochs take.

    Args:
        setup: model and training.
        hardware: peak of the device, and the number of processes, resolved.
        lengths: of the examples.
        measured: takes the place of an assumed share of the peak.
    """
    source, target = lengths.mean_source_tokens, lengths.mean_target_tokens
    flops = flops_per_example(setup, lengths)
    batch_size = setup.training.batch_size
    num_processes = hardware.num_processes if isinstance(hardware.num_processes, int) else 1
    if measured is None:
        seconds = seconds_per_step(
            flops,
            batch_size=batch_size,
            num_processes=num_processes,
            peak_tflops=hardware.peak_tflops,
            precision=setup.precision,
        )
    else:
        seconds = batch_size * flops / (num_processes * measured.flops_per_second)
    steps = None if lengths.num_examples is None else -(-lengths.num_examples // batch_size)
    return Timing(
        mean_source_tokens=source,
        mean_target_tokens=target,
        lengths_are_estimated=lengths.is_estimated,
        flops_per_example=flops,
        forward_flops=_by_part(forward_flops(setup.model.shape, source, target)),
        assumed_utilisation=ASSUMED_UTILISATION if measured is None and seconds is not None else None,
        measured_by=None if measured is None else measured.run,
        seconds_per_step=seconds,
        recipes_per_second=None if seconds is None else batch_size / seconds,
        steps_per_epoch=steps,
        hours_per_epoch=None if seconds is None or steps is None else steps * seconds / 3600,
    )


def flops_per_example(setup: Setup, lengths: Lengths) -> float:
    """Returns the arithmetic of learning from an example of mean length."""
    return training_flops(
        setup.model.shape,
        setup.training.adapter,
        source_tokens=lengths.mean_source_tokens,
        target_tokens=lengths.mean_target_tokens,
        gradient_checkpointing=setup.model.gradient_checkpointing,
    )


def _by_part(flops: ForwardFlops) -> dict[str, float]:
    return {
        "encoder": flops.encoder,
        "decoder": flops.decoder,
        "cross_attention": flops.cross_attention,
        "scores": flops.scores,
        "head": flops.head,
    }
