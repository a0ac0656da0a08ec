"""Reference-free metrics of one generated recipe, each in [0, 1]; empty or shapeless text scores 0.

Every metric takes the markdown text itself, because it judges what was really written, or the
`ParsedRecipe` of it where several metrics share one reading. No metric is enough alone: each docstring
names the faults it cannot see.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from recipe_exp.metrics.vocabulary import ACTION_VERBS, DESCRIPTIONS, FOODS, KINDS, PART_NOUNS
from recipe_exp.recipes import (
    LineKind,
    ParsedRecipe,
    normalise_title,
    parse_ingredient,
    read_recipe,
    render_markdown,
    singular,
)

MIN_INGREDIENTS = 3
MAX_INGREDIENTS = 40
MIN_STEPS = 3
MAX_STEPS = 30
MIN_STEP_WORDS = 2
MAX_STEP_WORDS = 110
MAX_TITLE_WORDS = 20

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_ALTERNATIVES = re.compile(r"\s+(?:or|and)\s+|\s*[,/&]\s*")
_SENTENCE_END = re.compile(r"[.!?…:;)\]\"'”’]$")
_CANONICAL_ORDER = (
    LineKind.TITLE,
    LineKind.INGREDIENTS_HEADING,
    LineKind.INGREDIENT,
    LineKind.INSTRUCTIONS_HEADING,
    LineKind.STEP,
)


def ingredient_coherence(prediction: str | ParsedRecipe) -> float:
    """Return the harmonic mean of `ingredient_coverage` and `ingredient_precision`.

    0 without steps, so leaving out the steps never pays. Blind to quantities, to the order of steps, and to
    whether the listed foods make a dish at all.
    """
    parsed = _read(prediction)
    coverage, precision = ingredient_coverage(parsed), ingredient_precision(parsed)
    return 2 * coverage * precision / (coverage + precision) if coverage and precision else 0.0


def ingredient_coverage(prediction: str | ParsedRecipe) -> float:
    """Return the share of listed ingredients that the steps use.

    An ingredient counts as used if the steps contain its distinguishing word, or its head word when no other
    listed ingredient shares that (`juice` alone does not use both lemon juice and orange juice), or a general
    word such as `cheese` for mozzarella. Repeated lines count once. `Mix all ingredients` names nothing and so
    uses nothing; a step that names a food without using it ("the chicken is done") counts as use.
    """
    parsed = _read(prediction)
    words = _step_words(parsed)
    foods = [food for food in dict.fromkeys(map(_food_words, parsed.recipe.ingredients)) if food]
    if not foods or not words:
        return 0.0
    times_listed = Counter(word for food in foods for word in set(food))
    return sum(_is_used(food, words, times_listed) for food in foods) / len(foods)


def ingredient_precision(prediction: str | ParsedRecipe) -> float:
    """Return the share of the foods named in the steps that the ingredient list contains.

    Foods are the words of the vocabulary `FOODS` and of the list itself, each counted once. Food words outside
    the vocabulary are seen only when they are listed, so an unlisted rarity costs nothing; and a list of one
    word too many costs nothing here, that is what `ingredient_coverage` is for.
    """
    parsed = _read(prediction)
    listed = {word for line in parsed.recipe.ingredients for word in _content_words(line)}
    named = {word for word in _step_words(parsed) if word in FOODS or word in listed}
    if not named:
        return 0.0
    return sum(_is_listed(word, listed) for word in named) / len(named)


def instruction_quality(prediction: str | ParsedRecipe) -> float:
    """Return the mean over the steps of the share of four marks that each one has.

    The marks: it is numbered with its own place, contains a cooking verb, has 2 to 110 words, and repeats no
    earlier step. Blind to the order of steps, to impossible actions, and to repetition inside one step.
    """
    parsed = _read(prediction)
    steps = parsed.recipe.instructions
    seen: set[str] = set()
    marks = 0
    for place, (step, number) in enumerate(zip(steps, parsed.step_numbers, strict=True), start=1):
        key = normalise_title(step)
        words = [word.casefold() for word in _WORD.findall(step)]
        marks += number == place
        marks += any(word in ACTION_VERBS for word in words)
        marks += MIN_STEP_WORDS <= len(words) <= MAX_STEP_WORDS
        marks += key not in seen
        seen.add(key)
    return marks / (4 * len(steps)) if steps else 0.0


def completeness(prediction: str | ParsedRecipe) -> float:
    """Return the mean of three parts: a title, enough different ingredients, enough different steps.

    The title counts if it has 1 to 20 words. A list counts in full from 3 to 40 ingredients or 3 to 30 steps,
    in proportion below and in inverse proportion above. Blind to what the lines say, and a genuine recipe of
    two steps loses a ninth.
    """
    recipe = _read(prediction).recipe
    title = 1 <= len(normalise_title(recipe.title).split()) <= MAX_TITLE_WORDS
    ingredients = _num_different(recipe.ingredients)
    steps = _num_different(recipe.instructions)
    parts = (
        float(title),
        _in_range(ingredients, MIN_INGREDIENTS, MAX_INGREDIENTS),
        _in_range(steps, MIN_STEPS, MAX_STEPS),
    )
    return sum(parts) / len(parts)


def format_correctness(prediction: str | ParsedRecipe) -> float:
    """Return the mean of eight marks of the canonical markdown; 1 exactly for a complete canonical recipe.

    The marks: one bold title, the ingredients heading, the share of bulleted ingredients, the instructions
    heading, the share of steps numbered with their own place, the parts in order, the share of lines that
    belong to the form, and an end that is not cut off (see `is_truncated`). A `ParsedRecipe` has lost its
    blank lines; for the text itself, a wrong layout of blank lines costs the mark for the lines.
    """
    parsed = _read(prediction)
    recipe = parsed.recipe
    if not (recipe.title or recipe.ingredients or recipe.instructions):
        return 0.0
    titles = parsed.of_kind(LineKind.TITLE)
    steps = parsed.step_numbers
    same_layout = isinstance(prediction, ParsedRecipe) or prediction.strip() == render_markdown(recipe)
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


def is_truncated(prediction: str | ParsedRecipe) -> bool:
    """Return whether the text ends in the middle of a step.

    It does if its last line is a marker without text, or a step without final punctuation where an earlier
    step has it. A recipe that never ends its steps with punctuation cannot be judged and counts as whole.
    """
    parsed = _read(prediction)
    if not parsed.lines or parsed.lines[-1].kind is LineKind.OTHER:
        return False
    if not parsed.lines[-1].text:
        return True
    *earlier, last = parsed.recipe.instructions or ("",)
    ends_sentences = any(_SENTENCE_END.search(step) for step in earlier)
    return ends_sentences and not _SENTENCE_END.search(last)


def well_formed(prediction: str | ParsedRecipe) -> float:
    """Return 1.0 for a title, 3 or more different ingredients and 3 or more numbered steps, else 0.0.

    Blind to what the lines say; an honest recipe of two steps scores 0.
    """
    parsed = _read(prediction)
    recipe = parsed.recipe
    numbered = [
        step for step, number in zip(recipe.instructions, parsed.step_numbers, strict=True) if number is not None
    ]
    return float(
        bool(normalise_title(recipe.title))
        and _num_different(recipe.ingredients) >= MIN_INGREDIENTS
        and _num_different(numbered) >= MIN_STEPS
    )


def prompt_adherence(prediction: str | ParsedRecipe, prompt_ingredients: Sequence[str]) -> float:
    """Return the share of the ingredients asked for that stand in the recipe's ingredient list.

    A listed food answers a request if both have the same head word and the listed one has every other word of
    the request: `chicken breasts` answers `chicken`, `chicken stock` does not, `oil` does not answer
    `olive oil`. Of alternatives (`butter or oil`) one is enough. Requests without a food word count as not
    found. Blind to quantities, to ingredients that nobody asked for, and to foods that share a head word:
    `coconut milk` answers `milk`.
    """
    parsed = _read(prediction)
    listed = [food for line in parsed.recipe.ingredients for food in _alternatives(line)]
    if not prompt_ingredients or not listed:
        return 0.0
    found = sum(
        any(_answers(food, asked) for food in listed for asked in _alternatives(request))
        for request in prompt_ingredients
    )
    return found / len(prompt_ingredients)


def _read(prediction: str | ParsedRecipe) -> ParsedRecipe:
    return prediction if isinstance(prediction, ParsedRecipe) else read_recipe(prediction)


def _tokens(text: str) -> list[str]:
    return [singular(word.casefold().replace("’", "'")) for word in _WORD.findall(text)]


def _step_words(parsed: ParsedRecipe) -> set[str]:
    return {word for step in parsed.recipe.instructions for word in _tokens(step)}


def _content_words(line: str) -> tuple[str, ...]:
    """Return the words of an ingredient's name that tell it from other foods, else all its words."""
    words = _tokens(parse_ingredient(line).name)
    return tuple(word for word in words if word not in DESCRIPTIONS) or tuple(words)


def _food_words(line: str) -> tuple[str, ...]:
    """Return the content words without the nouns for parts (`chicken breast` is `chicken`), head word last."""
    words = _content_words(line)
    return tuple(word for word in words if word not in PART_NOUNS) or words


def _is_used(food: tuple[str, ...], words: set[str], times_listed: Counter[str]) -> bool:
    own = {word for word in food if times_listed[word] == 1} or {food[-1]}
    general = {kind for kind, members in KINDS.items() if not members.isdisjoint(food)}
    return not words.isdisjoint(own | general)


def _is_listed(word: str, listed: set[str]) -> bool:
    return word in listed or not KINDS.get(word, frozenset()).isdisjoint(listed)


def _alternatives(line: str) -> list[tuple[str, ...]]:
    name = parse_ingredient(line).name
    return [words for part in _ALTERNATIVES.split(name) if (words := _food_words(part))]


def _answers(food: tuple[str, ...], asked: tuple[str, ...]) -> bool:
    return food[-1] == asked[-1] and set(asked) <= set(food)


def _is_in_order(parsed: ParsedRecipe) -> bool:
    places = [_CANONICAL_ORDER.index(line.kind) for line in parsed.lines if line.kind in _CANONICAL_ORDER]
    return set(places) == set(range(len(_CANONICAL_ORDER))) and places == sorted(places)


def _num_different(lines: Sequence[str]) -> int:
    return len({normalise_title(line) for line in lines} - {""})


def _in_range(count: int, minimum: int, maximum: int) -> float:
    return min(count / minimum, 1.0, maximum / count) if count else 0.0


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else 0.0
