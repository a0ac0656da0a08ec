"""Prompt templates: how a recipe becomes a prompt, and how a prompt of one's own is written."""

from __future__ import annotations

import difflib
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from recipe_exp.config.data import DataConfig
from recipe_exp.config.messages import show_setting, show_value
from recipe_exp.data.example import Example
from recipe_exp.data.readers.rows import Pair
from recipe_exp.errors import ConfigError
from recipe_exp.recipes.markdown import parse_recipe, render_markdown
from recipe_exp.recipes.recipe import Recipe
from recipe_exp.recipes.text import clean_line

# The first wording of each is the template's own; the others say the same and show the same parts.
WORDINGS = {
    "title": (
        "Write a recipe for {title}.",
        "How do I make {title}? Write down the whole recipe.",
        "Give me a recipe for {title}, with ingredients and instructions.",
        "Recipe wanted: {title}",
        "Explain how to prepare {title}.",
        "List the ingredients of {title} and describe how it is made.",
    ),
    "title_and_ingredients": (
        "Write a recipe for {title} using: {ingredients}",
        "Write a recipe called {title} with these ingredients: {ingredients}",
        "How do I make {title} with {ingredients}?",
        "Ingredients: {ingredients}. Turn them into {title} and write down the recipe.",
        "Give me a recipe for {title}. It should use {ingredients}.",
        "{title}, made of: {ingredients}. Write the recipe.",
    ),
    "ingredients": (
        "Write a recipe that uses: {ingredients}",
        "What can I make with {ingredients}?",
        "Think of a dish with these ingredients and write its recipe: {ingredients}",
        "I have {ingredients}. Write a recipe for them.",
        "Name a dish made of {ingredients} and describe how it is made.",
        "Ingredients at hand: {ingredients}. Suggest a recipe.",
    ),
    "instruction": (
        "I would like to make {title} and have {ingredients} at home. Please write down the whole recipe for me.",
        "Could you tell me step by step how to make {title}? I bought {ingredients}.",
        "Friends are coming over and I promised them {title}. My kitchen holds {ingredients}; what do I do with it?",
        "Please explain {title} to a beginner who has {ingredients}.",
        "My shopping bag holds {ingredients}. I want to turn it into {title}; write me a recipe that I can follow.",
        "Someone told me that {title} is made with {ingredients}. Please write the recipe with all amounts.",
    ),
}
TEMPLATES = {name: wordings[0] for name, wordings in WORDINGS.items()}
PLACEHOLDERS = ("title", "ingredients")
INGREDIENT_SEPARATOR = ", "

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_FIELD = re.compile(r"(?:^|;)\s*(\w+)\s*=")


@dataclass(frozen=True)
class PromptMix:
    """The prompts of a run.

    Attributes:
        held_out: template of validation, test and generation.
        templates: of training, each once, in an order that depends on their texts alone.
        weights: the share of the training examples that each of them prompts; they sum to 1.
    """

    held_out: str
    templates: tuple[str, ...]
    weights: tuple[float, ...]


def find_prompts(config: DataConfig) -> PromptMix:
    """Returns the prompts of a `data` section; a template that is named twice has both weights.

    Raises:
        ConfigError: with every mistake of `data.prompt`, `data.prompts`, `data.templates` and `data.paraphrase`.
    """
    mistakes: list[str] = []
    for name, text in config.templates.items():
        mistakes += _own_template_mistakes(name, text)
    found: dict[str, str] = {}
    chosen = config.prompts or {config.prompt: 1.0}
    settings = [("data.prompt", config.prompt), *((f"data.prompts.{name}", name) for name in config.prompts)]
    for key, name in settings:
        try:
            found[name] = find_template(name, config.templates, key, config.prompts.get(name, name))
        except ConfigError as error:
            mistakes += error.mistakes
    if config.paraphrase and not any(name in WORDINGS for name in chosen):
        key = "data.prompts" if config.prompts else "data.prompt"
        mistakes.append(f"data.paraphrase=true: {key} names no built-in template, and only those have other wordings")
    if mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes)))
    weights: dict[str, float] = defaultdict(float)
    for name, weight in chosen.items():
        wordings = WORDINGS[name] if config.paraphrase and name in WORDINGS else (found[name],)
        for template in wordings:
            weights[template] += weight / len(wordings)
    templates, total = tuple(sorted(weights)), math.fsum(weights.values())
    return PromptMix(found[config.prompt], templates, tuple(weights[template] / total for template in templates))


def find_template(
    prompt: str, own: Mapping[str, str] | None = None, key: str = "data.prompt", value: object = None
) -> str:
    """Returns the template that a prompt names, or the literal template that it is.

    Args:
        prompt: name or template.
        own: the user's templates by name.
        key: where the prompt stands, for messages.
        value: what the key is set to there, if not the prompt.

    Raises:
        ConfigError: no template has this name, or a literal one has a placeholder other than `{title}` and
            `{ingredients}`, or a brace without its partner.
    """
    templates = {**(own or {}), **TEMPLATES}
    if prompt in templates:
        return templates[prompt]
    where = show_setting(key, prompt if value is None else value)
    if "{" not in prompt and "}" not in prompt:
        raise ConfigError([f"{where}: no such template{_nearest(prompt, templates)}, or write {{title}} in it"])
    problem = _problem_of(prompt)
    if problem:
        raise ConfigError([f"{where}: {problem}"])
    return prompt


def _own_template_mistakes(name: str, text: str) -> list[str]:
    where = show_setting(f"data.templates.{name}", text)
    if name in TEMPLATES:
        return [f"{where}: a built-in template has this name; choose another"]
    problem = _problem_of(text) or ("" if "{" in text else "shows nothing of the recipe; write {title} in it")
    return [f"{where}: {problem}"] if problem else []


def _problem_of(template: str) -> str:
    """Returns what is wrong with the braces of a template, an empty text if nothing is."""
    for name in _PLACEHOLDER.findall(template):
        if name not in PLACEHOLDERS:
            return f"no such placeholder {{{show_value(name)}}}{_nearest(name, PLACEHOLDERS, '{{{}}}')}"
    rest = _PLACEHOLDER.sub("", template)
    if "{" in rest or "}" in rest:
        return "a brace without its partner; braces only enclose title or ingredients"
    return ""


def example_of(content: Recipe | Pair, template: str) -> Example:
    """Returns the example of a clean recipe, whose prompt the template makes, or of a pair, which has its own."""
    if isinstance(content, Recipe):
        return make_example(content, template)
    recipe = parse_recipe(content.target_text)
    return Example(
        source_text=content.source_text,
        target_text=content.target_text,
        title=recipe.title or content.source_text,
        prompt_ingredients=tuple(line for line in recipe.ingredients if line in content.source_text),
    )


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
