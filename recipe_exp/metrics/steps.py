"""Whether the steps of a recipe are ones that a cook can follow."""

from __future__ import annotations

from recipe_exp.metrics.metric import Fault, recipe_metric
from recipe_exp.metrics.reading import WORD, Reading
from recipe_exp.metrics.vocabulary import ACTION_VERBS
from recipe_exp.recipes import normalise_title

MIN_STEP_WORDS = 2
MAX_STEP_WORDS = 110


@recipe_metric(
    sees=(Fault.LOOPING_STEP,),
    ignores=(
        Fault.SHUFFLED_STEPS,
        Fault.REVERSED_STEPS,
        Fault.FOREIGN_INGREDIENTS,
        Fault.SWAPPED_INGREDIENTS,
        Fault.DROPPED_INGREDIENTS,
        Fault.REMOVED_QUANTITIES,
        Fault.PERMUTED_QUANTITIES,
        Fault.SWAPPED_TITLE,
        Fault.DISTORTED_SETTINGS,
    ),
)
def instruction_quality(reading: Reading) -> float:
    """Mean over the steps of the share of four marks that each one has.

    The marks: it is numbered with its own place, contains a cooking verb, has 2 to 110 words, and repeats no
    earlier step. Blind to the order of steps, to impossible actions, and to repetition inside one step.
    """
    parsed = reading.parsed
    steps = parsed.recipe.instructions
    seen: set[str] = set()
    marks = 0
    for place, (step, number) in enumerate(zip(steps, parsed.step_numbers, strict=True), start=1):
        key = normalise_title(step)
        words = [word.casefold() for word in WORD.findall(step)]
        marks += number == place
        marks += any(word in ACTION_VERBS for word in words)
        marks += MIN_STEP_WORDS <= len(words) <= MAX_STEP_WORDS
        marks += key not in seen
        seen.add(key)
    return marks / (4 * len(steps)) if steps else 0.0
