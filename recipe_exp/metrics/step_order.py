"""In what order the steps of recipes come: a pairwise model, learnt from training recipes, and its metric.

The probability that step a comes before step b is logistic (Bradley and Terry, 1952) in the difference of what their
words say of their places, and in signs that only the two together give, such as an ingredient's place in the list or
`the dough` where the other step makes a dough.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

from recipe_exp.metrics.ingredients import food_words
from recipe_exp.metrics.metric import Fault, recipe_metric
from recipe_exp.metrics.reading import Reading, parsed_line
from recipe_exp.metrics.vocabulary import word_set
from recipe_exp.recipes import Recipe, singular

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

NUM_SIGNS = 6
MAX_STEPS = 40
_MIN_OCCURRENCES = 4
_MAX_PAIRS = 40
_NUM_ITERATIONS = 150
_LEARNING_RATE = 0.05
_REGULARISATION = 5e-5
_SMALLEST_WEIGHT = 0.02

_TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+")
_SENTENCE = re.compile(r"(?<=[.;!?])\s+")
_DEFINITE = frozenset({"the", "this", "these"})
_REMAINING = frozenset({"remaining", "rest", "reserved", "remainder"})
_FUNCTION_WORDS = word_set(
    "the and a of to in with for until or is it on be at from into them as about all over by an this that"
)


@dataclass(frozen=True, slots=True)
class StepFeatures:
    """What is looked at in one step.

    Attributes:
        words: its words, pairs of adjacent words, and (marked `^`) the first two words.
        foods: places of the listed ingredients that it names, in order.
        place: the mean of these places as a share of the list, None if it names none.
        content: its words but for function words.
        definite: words behind `the` or `this`.
        remaining: words behind `remaining` or `rest of`.
    """

    words: frozenset[str]
    foods: tuple[int, ...]
    place: float | None
    content: frozenset[str]
    definite: frozenset[str]
    remaining: frozenset[str]


@dataclass(frozen=True)
class StepOrder:
    """The learnt model.

    Attributes:
        words: feature of a step -> how much it speaks for an early place.
        signs: weights of the signs that a pair of steps gives.
    """

    words: Mapping[str, float]
    signs: tuple[float, ...]

    @classmethod
    def fit(cls, recipes: Iterable[Recipe]) -> StepOrder:
        """Return the model of the recipes' pairs of steps; the same recipes in the same order give the same."""
        rows = [step_features(recipe.ingredients, recipe.instructions) for recipe in recipes]
        rows = [row for row in rows if len(row) > 1]
        counts = Counter(word for row in rows for step in row for word in step.words)
        frequent = sorted(word for word, times in counts.items() if times >= _MIN_OCCURRENCES)
        names = {word: index for index, word in enumerate(frequent)}
        if not names:
            return cls({}, (0.0,) * NUM_SIGNS)
        weights, signs = _fit(_Pairs.of(rows, names))
        words = {word: round(float(weights[i]), 3) for word, i in names.items() if abs(weights[i]) >= _SMALLEST_WEIGHT}
        return cls(words, tuple(round(float(sign), 4) for sign in signs))

    def score(self, steps: Sequence[StepFeatures]) -> float:
        """Return the mean probability of the pairs of steps to stand in the order in which they do; 0.5 of one step."""
        places = [sum(self.words.get(word, 0.0) for word in step.words) for step in steps]
        probabilities = [
            _logistic(places[a] - places[b] + _dot(self.signs, pair_signs(steps[a], steps[b])))
            for a, b in combinations(range(len(steps)), 2)
        ]
        return math.fsum(probabilities) / len(probabilities) if probabilities else 0.5


@recipe_metric(
    sees=(Fault.SHUFFLED_STEPS, Fault.REVERSED_STEPS),
    ignores=(Fault.REMOVED_QUANTITIES, Fault.PERMUTED_QUANTITIES, Fault.SWAPPED_TITLE),
)
def step_order(reading: Reading) -> float | None:
    """Mean probability of each pair of steps to stand in this order, by what training recipes do first.

    Learnt: which words and actions come early (`preheat`, `mix`) or late (`serve`, `cool`), that ingredients are
    used in the order of their list, that what is called `the dough` was made before. In a recipe of one step its
    sentences take the place of steps. 0.5 says that nothing is known: so does a single sentence. Fails where any
    order is right (steps of two sauces), and on vocabulary that training does not have; sees one early step in the
    wrong place only by its own pairs.
    """
    if reading.knowledge is None:
        return None
    recipe = reading.recipe
    if not recipe.instructions:
        return 0.0
    return reading.knowledge.step_order.score(step_features(recipe.ingredients, recipe.instructions))


def step_features(ingredients: Sequence[str], instructions: Sequence[str]) -> list[StepFeatures]:
    """Return the features of each of the first 40 steps; of a single step those of its sentences."""
    places: dict[str, int] = {}
    for place, line in enumerate(ingredients):
        for word in food_words(parsed_line(line).name):
            places.setdefault(word, place)
    steps = instructions if len(instructions) != 1 else _SENTENCE.split(instructions[0])
    return [_features(step, places, len(ingredients)) for step in steps[:MAX_STEPS]]


def pair_signs(a: StepFeatures, b: StepFeatures) -> tuple[float, ...]:
    """Return the signs, positive where they speak for a before b: places in the list, and who refers to whom."""
    by_mean = by_order = by_first = 0.0
    if a.place is not None and b.place is not None:
        by_mean = b.place - a.place
        by_order = float((b.place > a.place) - (b.place < a.place))
        by_first = float((b.foods[0] > a.foods[0]) - (b.foods[0] < a.foods[0]))
    refers = min(3, len(a.content & b.definite)) - min(3, len(b.content & a.definite))
    rest = len(b.remaining & a.content) - len(a.remaining & b.content)
    names_food = float(bool(a.foods)) - float(bool(b.foods))
    return by_mean, by_order, by_first, float(refers), float(rest), names_food


def _features(step: str, places: Mapping[str, int], num_ingredients: int) -> StepFeatures:
    tokens = _tokens(step)
    foods = sorted({places[token] for token in tokens if token in places})
    last = max(num_ingredients - 1, 1)
    return StepFeatures(
        words=_word_features(tokens),
        foods=tuple(foods),
        place=sum(foods) / len(foods) / last if foods else None,
        content=frozenset(token for token in tokens if len(token) > 2) - _FUNCTION_WORDS,
        definite=_behind(tokens, _DEFINITE, 2),
        remaining=_behind(tokens, _REMAINING, 3),
    )


@lru_cache(maxsize=65536)
def _tokens(step: str) -> tuple[str, ...]:
    return tuple("0" if token.isdigit() else singular(token) for token in _TOKEN.findall(step.casefold()))


@lru_cache(maxsize=16384)
def _word_features(tokens: tuple[str, ...]) -> frozenset[str]:
    pairs = frozenset(f"{first}_{second}" for first, second in pairwise(tokens))
    return pairs.union(tokens, [f"^{token}" for token in tokens[:2]])


def _behind(tokens: Sequence[str], openers: frozenset[str], reach: int) -> frozenset[str]:
    return frozenset(
        word for index, token in enumerate(tokens) if token in openers for word in tokens[index + 1 : index + 1 + reach]
    )


def _logistic(margin: float) -> float:
    return 1 / (1 + math.exp(-margin)) if margin > -700 else 0.0


def _dot(weights: Sequence[float], values: Sequence[float]) -> float:
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


@dataclass(frozen=True)
class _Pairs:
    """Pairs of steps of all recipes: features (ids of words, and the step each belongs to), pairs, signs, weights."""

    num_words: int
    num_steps: int
    word_ids: Ints
    step_ids: Ints
    first: Ints
    second: Ints
    signs: Floats
    weights: Floats

    @classmethod
    def of(cls, rows: Sequence[Sequence[StepFeatures]], names: Mapping[str, int]) -> _Pairs:
        import numpy as np

        word_ids: list[int] = []
        step_ids: list[int] = []
        pairs: list[tuple[int, int]] = []
        signs: list[tuple[float, ...]] = []
        weights: list[float] = []
        start = 0
        for row in rows:
            for number, step in enumerate(row, start=start):
                # Sorted, because sets of strings have another order in each process.
                found = sorted(names[word] for word in step.words if word in names)
                word_ids += found
                step_ids += [number] * len(found)
            chosen = _spread(list(combinations(range(len(row)), 2)))
            pairs += [(start + a, start + b) for a, b in chosen]
            signs += [pair_signs(row[a], row[b]) for a, b in chosen]
            # A recipe of many steps has many pairs that say the same.
            weights += [1 / math.sqrt(len(chosen))] * len(chosen)
            start += len(row)
        first, second = np.array(pairs, np.int64).reshape(-1, 2).T
        share = np.array(weights) / sum(weights)
        ids = np.array(word_ids, np.int64), np.array(step_ids, np.int64)
        return cls(len(names), start, *ids, first, second, np.array(signs), share)


def _spread(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return at most 40 of the pairs, evenly spread."""
    if len(pairs) <= _MAX_PAIRS:
        return pairs
    return [pairs[index * len(pairs) // _MAX_PAIRS] for index in range(_MAX_PAIRS)]


def _fit(pairs: _Pairs) -> tuple[Floats, Floats]:
    """Minimise the regularised logistic loss of the pairs by Adam over all of them (Kingma and Ba, 2015)."""
    import numpy as np

    parameters: list[Floats] = [np.zeros(pairs.num_words), np.zeros(NUM_SIGNS)]
    means: list[Any] = [np.zeros_like(parameter) for parameter in parameters]
    squares: list[Any] = [np.zeros_like(parameter) for parameter in parameters]
    for iteration in range(1, _NUM_ITERATIONS + 1):
        gradients = _gradients(pairs, *parameters)
        for parameter, gradient, mean, square in zip(parameters, gradients, means, squares, strict=True):
            mean += 0.1 * (gradient - mean)
            square += 0.01 * (gradient**2 - square)
            step = mean / (1 - 0.9**iteration) / (np.sqrt(square / (1 - 0.99**iteration)) + 1e-9)
            parameter -= _LEARNING_RATE * step
    return parameters[0], parameters[1]


def _gradients(pairs: _Pairs, words: Floats, signs: Floats) -> tuple[Floats, Floats]:
    import numpy as np

    places = np.bincount(pairs.step_ids, weights=words[pairs.word_ids], minlength=pairs.num_steps)
    margins = places[pairs.first] - places[pairs.second] + pairs.signs @ signs
    slopes = -pairs.weights / (1 + np.exp(np.clip(margins, -50, 50)))
    of_steps = np.bincount(pairs.first, slopes, pairs.num_steps) - np.bincount(pairs.second, slopes, pairs.num_steps)
    of_words = np.bincount(pairs.word_ids, of_steps[pairs.step_ids], pairs.num_words)
    return of_words + _REGULARISATION * words, pairs.signs.T @ slopes
