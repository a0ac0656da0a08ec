"""What is learnt from training recipes, so that others can be compared with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from heapq import heappush, heapreplace
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

from recipe_exp.errors import DataError
from recipe_exp.metrics.originality import Phrases, steps_of
from recipe_exp.metrics.plausibility import Amounts, amount_class, ingredients_of, unit_class
from recipe_exp.metrics.step_order import StepOrder
from recipe_exp.metrics.title_fit import TitleFit
from recipe_exp.recipes import Recipe

FORMAT_VERSION = 1
MAX_RECIPES = 30_000


@dataclass(frozen=True)
class Knowledge:
    """What training recipes teach about recipes. It must never be fitted on recipes that are evaluated.

    Attributes:
        num_recipes: how many recipes it was learnt from.
        quantities: which quantities with their units foods take.
        units: which units foods take.
        step_order: what recipes do first.
        title_fit: which words go with which titles.
        phrases: fingerprints of the steps' phrases, of all recipes.
    """

    num_recipes: int
    quantities: Amounts
    units: Amounts
    step_order: StepOrder
    title_fit: TitleFit
    phrases: Phrases

    @classmethod
    def fit(cls, recipes: Iterable[Recipe], *, max_recipes: int = MAX_RECIPES) -> Knowledge:
        """Return what the recipes teach; the same recipes in the same order teach the same.

        Memory is bounded whatever the number of recipes: all but the phrases is learnt from a sample that hashes draw.

        Args:
            recipes: of the training split; read once.
            max_recipes: size of the sample.

        Raises:
            DataError: there are no recipes.
        """
        sample = _Sample(max_recipes)
        phrases = Phrases.fit(steps_of(recipe.instructions for recipe in sample.watch(recipes)))
        if not sample.recipes:
            raise DataError("no recipes to learn from; what is plausible is learnt from the training split")
        chosen = sample.recipes
        return cls(
            sample.num_seen,
            Amounts.fit(ingredients_of(chosen), amount_class),
            Amounts.fit(ingredients_of(chosen), unit_class),
            StepOrder.fit(chosen),
            TitleFit.fit(chosen),
            phrases,
        )

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        content = {"version": FORMAT_VERSION, **asdict(self)}
        Path(path).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Knowledge:
        """Return what `save` wrote.

        Raises:
            DataError: the file cannot be read, or is not of this version.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["version"] != FORMAT_VERSION:
                raise DataError(f"{path}: version {content['version']}, not {FORMAT_VERSION}; fit it again")
            return cls(
                content["num_recipes"],
                Amounts(**content["quantities"]),
                Amounts(**content["units"]),
                StepOrder(content["step_order"]["words"], tuple(content["step_order"]["signs"])),
                _title_fit(content["title_fit"]),
                Phrases(**content["phrases"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not what Knowledge.save writes ({error}); fit it again") from None


def _title_fit(content: dict[str, Any]) -> TitleFit:
    return TitleFit(
        {word: tuple(pair) for word, pair in content["itself"].items()},
        {
            word: {other: tuple(pair) for other, pair in companions.items()}
            for word, companions in content["companions"].items()
        },
        tuple(content["unknown"]),
    )


class _Sample:
    """The recipes with the smallest hashes among those that went by."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[int, int, Recipe]] = []
        self.num_seen = 0

    def watch(self, recipes: Iterable[Recipe]) -> Iterator[Recipe]:
        number = count()
        for recipe in recipes:
            self.num_seen += 1
            key = -crc32("\n".join((recipe.title, *recipe.instructions)).encode("utf-8", "replace"))
            entry = (key, -next(number), recipe)
            if len(self._heap) < self._size:
                heappush(self._heap, entry)
            elif key > self._heap[0][0]:
                heapreplace(self._heap, entry)
            yield recipe

    @property
    def recipes(self) -> list[Recipe]:
        """In the order in which they went by."""
        return [recipe for _, _, recipe in sorted(self._heap, key=lambda entry: -entry[1])]
