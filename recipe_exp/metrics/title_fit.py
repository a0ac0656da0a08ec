"""Which words of recipes go with which words of their titles: learnt from training recipes, and its metric."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from recipe_exp.metrics.metric import Fault, recipe_metric
from recipe_exp.metrics.reading import Reading, parsed_line, words_of
from recipe_exp.metrics.vocabulary import word_set
from recipe_exp.recipes import Recipe

MAX_TITLE_WORDS = 8_000
MAX_COMPANIONS = 25
_MIN_TITLES = 3
_MIN_RECIPES = 8
_PRIOR_TITLES = 4.0
_STRONGEST = 8.0
_COMPANION_WEIGHT = 0.3
_EMPTY_WORDS = word_set(
    "a an and the of with in on for to from or i ii iii iv no my our best easy quick simple recipe style"
)

Evidence = tuple[float, float]


@dataclass(frozen=True)
class TitleFit:
    """What a word of a title lets expect of the recipe under it, as logarithms of likelihood ratios.

    Attributes:
        itself: title word -> evidence of the recipe's naming it, and of its not naming it.
        companions: title word -> word that comes with it -> the same evidence.
        unknown: the evidence of naming, and of not naming, a title word that training does not have.
    """

    itself: Mapping[str, Evidence]
    companions: Mapping[str, Mapping[str, Evidence]]
    unknown: Evidence

    @classmethod
    def fit(cls, recipes: Iterable[Recipe]) -> TitleFit:
        """Return the associations of frequent title words with their 25 most telling companions."""
        counts = _Counts()
        for recipe in recipes:
            counts.add(title_words(recipe.title), body_words(recipe.ingredients, recipe.instructions))
        frequent = [word for word, times in counts.titles.items() if times >= _MIN_TITLES]
        frequent = sorted(frequent, key=lambda word: (-counts.titles[word], word))[:MAX_TITLE_WORDS]
        named = sum(counts.together[word][word] for word in counts.titles)
        rate = (named + 1) / (counts.titles.total() + 2)
        return cls(
            {word: counts.evidence(word, word, rate) for word in frequent},
            {word: counts.companions(word) for word in frequent},
            # A word that training does not know is one of a rare food or of none.
            (math.log(rate * max(counts.num_recipes, 2) / 4), math.log((1 - rate) / 1.0)),
        )

    def score(self, title: Sequence[str], body: frozenset[str]) -> float:
        """Return the probability, at even odds, that the title belongs to this recipe and not to another one."""
        evidence = [self._evidence(word, body) for word in title]
        margin = math.fsum(evidence) / math.sqrt(len(evidence)) if evidence else 0.0
        return 1 / (1 + math.exp(-max(-_STRONGEST, min(margin, _STRONGEST)) / 2))

    def _evidence(self, word: str, body: frozenset[str]) -> float:
        present, absent = self.itself.get(word, self.unknown)
        companions = self.companions.get(word, {})
        others = math.fsum(pair[0] if other in body else pair[1] for other, pair in companions.items())
        return (present if word in body else absent) + _COMPANION_WEIGHT * others


class _Counts:
    """In how many recipes words stand, in titles and below them."""

    def __init__(self) -> None:
        self.num_recipes = 0
        self.titles: Counter[str] = Counter()
        self.bodies: Counter[str] = Counter()
        self.together: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, title: Sequence[str], body: frozenset[str]) -> None:
        self.num_recipes += 1
        self.titles.update(title)
        self.bodies.update(body)
        for word in title:
            self.together[word].update(body)

    def evidence(self, word: str, other: str, rate: float | None = None) -> Evidence:
        """Return log P(other | word in the title) / P(other), and the same of its absence."""
        base = (self.bodies[other] + 0.5) / (self.num_recipes + 1)
        prior = base if rate is None else rate
        given = (self.together[word][other] + _PRIOR_TITLES * prior) / (self.titles[word] + _PRIOR_TITLES)
        return round(math.log(given / base), 3), round(math.log((1 - given) / (1 - base)), 3)

    def companions(self, word: str) -> dict[str, Evidence]:
        telling = []
        for other, times in self.together[word].items():
            if other != word and times >= 2 and self.bodies[other] >= _MIN_RECIPES:
                present, absent = self.evidence(word, other)
                share = times / self.titles[word]
                telling.append((-(share * present + (1 - share) * absent), other, (present, absent)))
        return {other: evidence for _, other, evidence in sorted(telling)[:MAX_COMPANIONS]}


@recipe_metric(
    sees=(Fault.SWAPPED_TITLE,),
    ignores=(
        Fault.SHUFFLED_STEPS,
        Fault.REVERSED_STEPS,
        Fault.REMOVED_QUANTITIES,
        Fault.PERMUTED_QUANTITIES,
        Fault.LOOPING_STEP,
        Fault.DISTORTED_SETTINGS,
    ),
)
def title_fit(reading: Reading) -> float | None:
    """How well title and recipe belong together, by the words that come with the title's words in training recipes.

    The probability, at even odds, that this title belongs to this recipe rather than to any: a word of the title that
    ingredients or steps name speaks for it, and so do words that come with it (`flour` and `bake` with `cake`).
    0.5 for a title of unknown words that the recipe does not name, such as `Grandmother's Delight`; 0 without a
    title or without anything below it. Blind to order and amounts, and to one wrong ingredient among many.
    """
    if reading.knowledge is None:
        return None
    recipe = reading.recipe
    title, body = title_words(recipe.title), body_words(recipe.ingredients, recipe.instructions)
    if not recipe.title or not body:
        return 0.0
    return reading.knowledge.title_fit.score(title, body)


def title_words(title: str) -> tuple[str, ...]:
    """Return the different words of a title that say something of its dish, in order."""
    return tuple(dict.fromkeys(word for word in words_of(title) if word not in _EMPTY_WORDS and len(word) > 1))


def body_words(ingredients: Sequence[str], instructions: Sequence[str]) -> frozenset[str]:
    """Return the different words of the ingredients' names and of the steps."""
    names = (parsed_line(line).name for line in ingredients)
    return frozenset(word for text in chain(names, instructions) for word in words_of(text))
