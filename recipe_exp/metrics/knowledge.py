"""What is learnt from training recipes, so that others can be compared with them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from recipe_exp.errors import DataError
from recipe_exp.recipes import Recipe

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What training recipes teach about recipes. It must never be fitted on recipes that are evaluated.

    Attributes:
        num_recipes: how many recipes it was learnt from.
    """

    num_recipes: int

    @classmethod
    def fit(cls, recipes: Iterable[Recipe]) -> Knowledge:
        """Return what the recipes teach; the same recipes in the same order teach the same.

        Raises:
            DataError: there are no recipes.
        """
        num_recipes = sum(1 for _ in recipes)
        if not num_recipes:
            raise DataError("no recipes to learn from; what is plausible is learnt from the training split")
        return cls(num_recipes)

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        content = {"version": FORMAT_VERSION, "num_recipes": self.num_recipes}
        Path(path).write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Knowledge:
        """Return what `save` wrote.

        Raises:
            DataError: the file cannot be read, or is not of this version.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["version"] != FORMAT_VERSION:
                raise DataError(f"{path} is of version {content['version']}, not {FORMAT_VERSION}; fit it again")
            return cls(content["num_recipes"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} does not hold what Knowledge.save writes: {error}; fit it again") from None
