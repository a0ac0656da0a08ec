"""One line of a prepared split: a recipe, or a pair of texts, as JSON."""

from __future__ import annotations

import msgspec

from recipe_exp.data.readers.rows import Pair
from recipe_exp.recipes.markdown import parse_recipe
from recipe_exp.recipes.quality import quality_checks
from recipe_exp.recipes.recipe import Recipe


class StoredRecord(msgspec.Struct, omit_defaults=True):
    """A recipe has `title`, `ingredients` and `instructions`, a pair `input` and `output`.

    Attributes:
        title: the dish's name.
        ingredients: one line each.
        instructions: one step each.
        input: the prompt of a pair.
        output: the answer of a pair.
        source: where the record came from, if it said so.
        quality_score: in [0, 1]; its own, or else computed.
        cluster: the same number for all records that are nearly the same; empty while that is not known.
    """

    title: str = ""
    ingredients: tuple[str, ...] = ()
    instructions: tuple[str, ...] = ()
    input: str | None = None
    output: str | None = None
    source: str | None = None
    quality_score: float | None = None
    cluster: int | None = None

    @property
    def content(self) -> Recipe | Pair:
        """What the record holds."""
        if self.input and self.output:
            return Pair(self.input, self.output, self.quality_score)
        return Recipe(self.title, self.ingredients, self.instructions, self.quality_score, self.source)

    @property
    def text(self) -> str:
        """The words by which records are compared: the whole recipe, or the answer of a pair."""
        if self.output is not None:
            return self.output
        return "\n".join((self.title, *self.ingredients, *self.instructions))


_RECORD = msgspec.json.Decoder(StoredRecord)


def decode_line(line: bytes) -> StoredRecord:
    """Returns the record of a line of JSON; what msgspec raises says what is wrong with it."""
    return _RECORD.decode(line)


def score_of(record: StoredRecord) -> float:
    """Returns the quality score of a record: its own, or else computed."""
    return computed_score(record.content) if record.quality_score is None else record.quality_score


def computed_score(content: Recipe | Pair) -> float:
    """Returns the quality score of a recipe, or of the recipe in a pair's answer, by `recipe_exp.recipes.quality`."""
    if isinstance(content, Recipe):
        return quality_checks(content).score
    parsed = parse_recipe(content.target_text)
    return quality_checks(Recipe(title_of(content), parsed.ingredients, parsed.instructions)).score


def title_of(content: Recipe | Pair) -> str:
    """Returns the title that decides the split: a pair's prompt stands in where its answer has none."""
    if isinstance(content, Recipe):
        return content.title
    return parse_recipe(content.target_text).title or content.source_text


def store(content: Recipe | Pair, score: float) -> StoredRecord:
    """Returns the record of a clean recipe or pair."""
    if isinstance(content, Pair):
        return StoredRecord(input=content.source_text, output=content.target_text, quality_score=score)
    return StoredRecord(
        content.title, content.ingredients, content.instructions, source=content.source, quality_score=score
    )
