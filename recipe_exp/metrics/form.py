"""Whether a recipe is whole and in the canonical form."""

from __future__ import annotations

import re
from collections.abc import Sequence

from recipe_exp.metrics.metric import Fault, recipe_metric
from recipe_exp.metrics.reading import Reading
from recipe_exp.recipes import LineKind, ParsedRecipe, normalise_title, render_markdown

MIN_INGREDIENTS = 3
MAX_INGREDIENTS = 40
MIN_STEPS = 3
MAX_STEPS = 30
MAX_TITLE_WORDS = 20

_SENTENCE_END = re.compile(r"[.!?…:;)\]\"'”’]$")
_INNER_END = re.compile(r"[.!?…;]\s")
_DANGLING = re.compile(
    r"(?:[,&-]|\b(?:an?|the|and|or|of|to|in|into|on|onto|with|for|until|about|at|from|by|over|then|as|is|your|each))$",
    re.IGNORECASE,
)
_CANONICAL_ORDER = (
    LineKind.TITLE,
    LineKind.INGREDIENTS_HEADING,
    LineKind.INGREDIENT,
    LineKind.INSTRUCTIONS_HEADING,
    LineKind.STEP,
)
_CONTENT_FAULTS = (
    Fault.FOREIGN_INGREDIENTS,
    Fault.SWAPPED_INGREDIENTS,
    Fault.REMOVED_QUANTITIES,
    Fault.PERMUTED_QUANTITIES,
    Fault.SWAPPED_TITLE,
    Fault.DISTORTED_SETTINGS,
)
_ORDER_FAULTS = (Fault.SHUFFLED_STEPS, Fault.REVERSED_STEPS)


@recipe_metric(sees=(Fault.DROPPED_SECTION,), ignores=_ORDER_FAULTS)
def completeness(reading: Reading) -> float:
    """Mean of three parts: a title, enough different ingredients, enough different steps.

    The title counts if it has 1 to 20 words. A list counts in full from 3 to 40 ingredients or 3 to 30 steps,
    in proportion below and in inverse proportion above. Blind to what the lines say, and a genuine recipe of
    two steps loses a ninth.
    """
    recipe = reading.recipe
    title = 1 <= len(normalise_title(recipe.title).split()) <= MAX_TITLE_WORDS
    ingredients = _num_different(recipe.ingredients)
    steps = _num_different(recipe.instructions)
    parts = (
        float(title),
        _in_range(ingredients, MIN_INGREDIENTS, MAX_INGREDIENTS),
        _in_range(steps, MIN_STEPS, MAX_STEPS),
    )
    return sum(parts) / len(parts)


@recipe_metric(sees=(Fault.DROPPED_SECTION, Fault.TRUNCATED), ignores=_CONTENT_FAULTS)
def format_correctness(reading: Reading) -> float:
    """Mean of eight marks of the canonical markdown; 1 exactly for a complete canonical recipe.

    The marks: one bold title, the ingredients heading, the share of bulleted ingredients, the instructions
    heading, the share of steps numbered with their own place, the parts in order, the share of lines that
    belong to the form (a wrong layout of blank lines counts as one line that does not), and an end that is not
    cut off (see `clean_ending`).
    """
    parsed, recipe = reading.parsed, reading.recipe
    if not (recipe.title or recipe.ingredients or recipe.instructions):
        return 0.0
    titles = parsed.of_kind(LineKind.TITLE)
    steps = parsed.step_numbers
    same_layout = reading.text.strip() == render_markdown(recipe)
    canonical = sum(line.canonical for line in parsed.lines) / len(parsed.lines)
    marks = (
        float(bool(titles) and titles[0].canonical),
        float([line.canonical for line in parsed.of_kind(LineKind.INGREDIENTS_HEADING)] == [True]),
        _share([line.canonical for line in parsed.of_kind(LineKind.INGREDIENT)]),
        float([line.canonical for line in parsed.of_kind(LineKind.INSTRUCTIONS_HEADING)] == [True]),
        _share([number == place for place, number in enumerate(steps, start=1)]),
        float(_is_in_order(parsed)),
        canonical if same_layout or canonical < 1 else 1 - 1 / (len(parsed.lines) + 1),
        float(bool(steps) and not is_truncated(parsed)),
    )
    return sum(marks) / len(marks)


@recipe_metric(ignores=(*_ORDER_FAULTS, *_CONTENT_FAULTS))
def well_formed(reading: Reading) -> float:
    """1 for a title, 3 or more different ingredients and 3 or more numbered steps, else 0.

    Blind to what the lines say; an honest recipe of two steps scores 0.
    """
    recipe = reading.recipe
    numbers = reading.parsed.step_numbers
    numbered = [step for step, number in zip(recipe.instructions, numbers, strict=True) if number is not None]
    return float(
        bool(normalise_title(recipe.title))
        and _num_different(recipe.ingredients) >= MIN_INGREDIENTS
        and _num_different(numbered) >= MIN_STEPS
    )


@recipe_metric(sees=(Fault.TRUNCATED,), ignores=_CONTENT_FAULTS)
def clean_ending(reading: Reading) -> float:
    """1 for a recipe that ends with a whole step, 0 for one that breaks off or has no step.

    It breaks off if its last line is a marker without text, or a step without final punctuation where the steps use
    any, or that ends with a comma or a word such as `the`. A recipe's only step is taken to use punctuation, as those
    that are written in one paragraph do. Where several steps use none other ends cannot be judged and count as whole;
    so does a recipe that was cut between two sentences.
    """
    return float(bool(reading.recipe.instructions) and not is_truncated(reading.parsed))


def is_truncated(parsed: ParsedRecipe) -> bool:
    """Return whether the text ends in the middle of a step; see `clean_ending`."""
    if not parsed.lines or parsed.lines[-1].kind is LineKind.OTHER:
        return False
    if not parsed.lines[-1].text:
        return True
    if not parsed.recipe.instructions:
        return False
    *earlier, last = parsed.recipe.instructions
    if _SENTENCE_END.search(last):
        return False
    uses_punctuation = not earlier or any(map(_SENTENCE_END.search, earlier))
    return bool(uses_punctuation or _INNER_END.search(last) or _DANGLING.search(last))


def _is_in_order(parsed: ParsedRecipe) -> bool:
    places = [_CANONICAL_ORDER.index(line.kind) for line in parsed.lines if line.kind in _CANONICAL_ORDER]
    return set(places) == set(range(len(_CANONICAL_ORDER))) and places == sorted(places)


def _num_different(lines: Sequence[str]) -> int:
    return len({normalise_title(line) for line in lines} - {""})


def _in_range(count: int, minimum: int, maximum: int) -> float:
    return min(count / minimum, 1.0, maximum / count) if count else 0.0


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else 0.0
