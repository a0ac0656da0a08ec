"""Prompt templates: how a recipe becomes a prompt, and how a prompt of one's own is written."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from recipe_exp.config.messages import show_setting, show_value
from recipe_exp.data.example import Example
from recipe_exp.errors import ConfigError
from recipe_exp.recipes.markdown import render_markdown
from recipe_exp.recipes.recipe import Recipe
from recipe_exp.recipes.text import clean_line

TEMPLATES = {
    "title": "Write a recipe for {title}.",
    "title_and_ingredients": "Write a recipe for {title} using: {ingredients}",
}
PLACEHOLDERS = ("title", "ingredients")
INGREDIENT_SEPARATOR = ", "

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_FIELD = re.compile(r"(?:^|;)\s*(\w+)\s*=")


def find_template(prompt: str) -> str:
    """Returns the template that `data.prompt` names, or the literal template that it is.

    Raises:
        ConfigError: no template has this name, or a literal one has a placeholder other than `{title}` and
            `{ingredients}`, or a brace without its partner.
    """
    if prompt in TEMPLATES:
        return TEMPLATES[prompt]
    where = show_setting("data.prompt", prompt)
    if "{" not in prompt and "}" not in prompt:
        raise ConfigError([f"{where}: no such template{_nearest(prompt, TEMPLATES)}, or write {{title}} in it"])
    for name in _PLACEHOLDER.findall(prompt):
        if name not in PLACEHOLDERS:
            nearest = _nearest(name, PLACEHOLDERS, "{{{}}}")
            raise ConfigError([f"{where}: no such placeholder {{{show_value(name)}}}{nearest}"])
    rest = _PLACEHOLDER.sub("", prompt)
    if "{" in rest or "}" in rest:
        raise ConfigError([f"{where}: a brace without its partner; braces only enclose title or ingredients"])
    return prompt


def make_example(recipe: Recipe, template: str) -> Example:
    """Returns the example of a clean recipe: the template's text as its prompt, its markdown as the target."""
    return Example(
        source_text=_fill(template, recipe.title, recipe.ingredients),
        target_text=render_markdown(recipe),
        title=recipe.title,
        prompt_ingredients=recipe.ingredients if "{ingredients}" in template else (),
    )


def parse_prompt(text: str, template: str) -> str:
    """Returns the prompt that a user means.

    Args:
        text: raw text, which stays as it is, or `title=...; ingredients=a, b, c`, which the template renders.
            Parts that the template does not show may be given and are not used.
        template: a template as `find_template` returns it.

    Raises:
        ConfigError: a part that the template shows is missing or empty, or another part is named.
    """
    if _FIELD.match(text) is None:
        return text
    parts = _FIELD.split(text)
    shown = show_value(text)
    fields = dict(zip(parts[1::2], (part.strip(" ;\t\r\n") for part in parts[2::2]), strict=True))
    for name in fields:
        if name not in PLACEHOLDERS:
            nearest = _nearest(name, PLACEHOLDERS)
            raise ConfigError([f"prompt '{shown}': no such part '{show_value(name)}'{nearest}"])
    for name in _PLACEHOLDER.findall(template):
        if not fields.get(name):
            raise ConfigError([f"prompt '{shown}': gives no {name}, which data.prompt shows; add `; {name}=...`"])
    ingredients = [line for item in fields.get("ingredients", "").split(",") if (line := clean_line(item))]
    return _fill(template, clean_line(fields.get("title", "")), ingredients)


def _fill(template: str, title: str, ingredients: Sequence[str]) -> str:
    # One pass over the template: what is inserted is never searched for placeholders.
    values = {"title": title, "ingredients": INGREDIENT_SEPARATOR.join(ingredients)}
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def _nearest(name: str, names: Iterable[str], shown: str = "{}") -> str:
    candidates = list(names)
    close = difflib.get_close_matches(name[:100], candidates, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {shown.format(close[0])}?"
    return f"; there are {' and '.join(shown.format(candidate) for candidate in candidates)}"
