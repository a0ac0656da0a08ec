"""What a device has room for: the micro-batch that `auto` takes, and the changes with which a run fits."""

from __future__ import annotations

from collections.abc import Iterator

from recipe_exp.config.training import TrainingConfig
from recipe_exp.errors import HardwareError
from recipe_exp.planning.inputs import USABLE_SHARE, Machine
from recipe_exp.planning.memory import GIB, estimate_largest
from recipe_exp.planning.remedies import Change, Setup, changes

# Beyond these, larger products are no faster.
MAX_AUTO_TOKENS = {"cuda": 32768, "cpu": 16384}
_MIN_AUTO_TOKENS = 16


def auto_micro_batch_tokens(setup: Setup, machine: Machine, longest_example_tokens: int) -> int:
    """Returns the largest micro-batch that fits in what is usable of the memory, at least the longest example.

    Where weights are updated in the backward pass it is the whole window, and no other is possible.

    Sizes are a power of two or one and a half times one, up to `MAX_AUTO_TOKENS`.

    Args:
        setup: model, training and resolved precision.
        machine: the device.
        longest_example_tokens: source and target tokens of the longest example.

    Raises:
        HardwareError: if not even the longest example fits; the message names the cheapest changes that help.
    """
    least = least_tokens(setup.training, longest_example_tokens)

    def fits(tokens: int) -> bool:
        return largest_peak(setup, machine, longest_example_tokens, tokens) <= machine.usable_bytes

    if not fits(least):
        raise HardwareError(_does_not_fit(setup, machine, longest_example_tokens))
    if setup.training.update_in_backward:
        return least
    sizes = [size for size in _round_sizes(MAX_AUTO_TOKENS[machine.device]) if size > longest_example_tokens]
    fitting = [size for size in sizes if fits(size)]
    return max(fitting, default=max(longest_example_tokens, _MIN_AUTO_TOKENS))


def least_tokens(training: TrainingConfig, longest_example_tokens: int) -> int:
    """Returns the smallest micro-batch that every window can be cut to."""
    return longest_example_tokens * (training.batch_size if training.update_in_backward else 1)


def largest_peak(setup: Setup, machine: Machine, longest_example_tokens: int, tokens: int | None = None) -> int:
    """Returns the peak bytes of a micro-batch that no real one of so many tokens exceeds; None is one example."""
    return estimate_largest(
        setup,
        tokens or longest_example_tokens,
        attention=machine.attention,
        device=machine.device,
        longest_example_tokens=longest_example_tokens,
    ).peak_bytes


def fitting_changes(setup: Setup, machine: Machine, longest_example_tokens: int) -> list[tuple[Change, int]]:
    """Returns the changes with which the longest example fits, and their peak bytes.

    The cheapest comes first, and none contains another.
    """
    found: list[tuple[Change, int]] = []
    for change, peak_bytes in _peaks(setup, machine, longest_example_tokens):
        is_more_than_needed = any(set(other.overrides) <= set(change.overrides) for other, _ in found)
        if not is_more_than_needed and peak_bytes <= machine.usable_bytes:
            found.append((change, peak_bytes))
    return found


def leanest_change(setup: Setup, machine: Machine, longest_example_tokens: int) -> tuple[tuple[str, ...], int]:
    """Returns the overrides that need the least memory of all, none of them if the setup does, and its peak bytes."""
    unchanged: tuple[tuple[str, ...], int] = ((), largest_peak(setup, machine, longest_example_tokens))
    changed = [(change.overrides, peak_bytes) for change, peak_bytes in _peaks(setup, machine, longest_example_tokens)]
    return min([unchanged, *changed], key=lambda item: item[1])


def _peaks(setup: Setup, machine: Machine, longest: int) -> Iterator[tuple[Change, int]]:
    for change in changes(setup, machine.device):
        yield change, largest_peak(change.setup, machine, longest)


def _round_sizes(largest: int) -> list[int]:
    powers = [2**exponent for exponent in range(4, largest.bit_length())]
    return sorted(size for power in powers for size in (power, power * 3 // 2) if size <= largest)


def _does_not_fit(setup: Setup, machine: Machine, longest: int) -> str:
    """Returns one line: what is needed, what there is, and the cheapest changes that help."""
    helping = fitting_changes(setup, machine, longest)
    training = setup.training
    examples = f"{training.batch_size} examples" if training.update_in_backward else "one example"
    if helping:
        remedy = "add " + ", or ".join(" ".join(change.overrides) for change, _ in helping[:3])
    else:
        overrides, peak_bytes = leanest_change(setup, machine, longest)
        remedy = (
            f"take a smaller model, or a device of {peak_bytes / USABLE_SHARE / GIB:.1f} GiB "
            f"{' '.join(('with', *overrides)) if overrides else 'for these settings'}"
        )
    return (
        f"hardware.memory_gb={machine.memory_bytes / GIB:.3g}: {setup.model.name} needs "
        f"{largest_peak(setup, machine, longest) / GIB:.1f} GiB for {examples} of {longest} tokens, and "
        f"{machine.usable_bytes / GIB:.1f} GiB can be used; {remedy}"
    )
