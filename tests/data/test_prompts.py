from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.config.data import DataConfig
from recipe_exp.data.prompts import (
    TEMPLATES,
    WORDINGS,
    PromptMix,
    find_prompts,
    find_template,
    make_example,
    parse_prompt,
)
from recipe_exp.errors import ConfigError
from recipe_exp.recipes.markdown import parse_recipe
from recipe_exp.recipes.recipe import Recipe

PANCAKES = Recipe("Thin Pancakes", ("1 1/2 cups flour", "2 eggs"), ("Whisk.", "Fry."))
BOTH = find_template("title_and_ingredients")


def test_each_named_template_shows_what_its_name_says() -> None:
    title_only = make_example(PANCAKES, find_template("title"))
    assert title_only.source_text == "Write a recipe for Thin Pancakes."
    assert title_only.prompt_ingredients == ()

    both = make_example(PANCAKES, BOTH)
    assert both.source_text == "Write a recipe for Thin Pancakes using: 1 1/2 cups flour, 2 eggs"
    assert both.prompt_ingredients == PANCAKES.ingredients

    ingredients_only = make_example(PANCAKES, find_template("ingredients"))
    assert ingredients_only.source_text == "Write a recipe that uses: 1 1/2 cups flour, 2 eggs"
    assert ingredients_only.prompt_ingredients == PANCAKES.ingredients

    request = make_example(PANCAKES, find_template("instruction"))
    assert "Thin Pancakes" in request.source_text
    assert "1 1/2 cups flour, 2 eggs" in request.source_text


@pytest.mark.parametrize("name", WORDINGS)
def test_all_wordings_of_a_template_differ_and_show_the_same_parts(name: str) -> None:
    examples = [make_example(PANCAKES, wording) for wording in WORDINGS[name]]
    assert TEMPLATES[name] == WORDINGS[name][0]
    assert len({example.source_text for example in examples}) == len(examples) >= 6
    for part in (PANCAKES.title, ", ".join(PANCAKES.ingredients)):
        assert len({part in example.source_text for example in examples}) == 1


def test_the_target_is_the_recipe_in_markdown_and_the_title_its_own() -> None:
    example = make_example(PANCAKES, BOTH)
    assert parse_recipe(example.target_text) == PANCAKES
    assert example.title == "Thin Pancakes"


def test_a_literal_template_may_show_parts_in_any_order_and_more_than_once() -> None:
    template = find_template("{ingredients} -> {title}! {title}")
    example = make_example(PANCAKES, template)
    assert example.source_text == "1 1/2 cups flour, 2 eggs -> Thin Pancakes! Thin Pancakes"
    assert example.prompt_ingredients == PANCAKES.ingredients


@pytest.mark.parametrize("title", ["{ingredients}", "{title}", "{0}", "{", "}}", "%s {x!r}", r"\1 \g<0>"])
def test_braces_in_a_recipe_are_text(title: str) -> None:
    recipe = Recipe(title, ("1 {title}", "{}"), ("Eat.",))
    assert make_example(recipe, BOTH).source_text == f"Write a recipe for {title} using: 1 {{title}}, {{}}"


@given(title=st.text(min_size=1), ingredients=st.lists(st.text(min_size=1), min_size=1))
def test_the_prompt_is_the_template_with_the_recipes_own_text(title: str, ingredients: list[str]) -> None:
    recipe = Recipe(title, tuple(ingredients), ("Eat.",))
    assert make_example(recipe, "<{title}|{ingredients}>").source_text == f"<{title}|{', '.join(ingredients)}>"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("titel", "did you mean title?"),
        ("title_and_ingredient", "did you mean title_and_ingredients?"),
        ("zzz", "there are title and title_and_ingredients and ingredients and instruction"),
        ("Cook {titel}", "no such placeholder {titel}; did you mean {title}?"),
        ("Cook {ingredient}", "did you mean {ingredients}?"),
        ("Cook {}", "no such placeholder {}"),
        ("Cook {title!r}", "no such placeholder {title!r}"),
        ("Cook {title} {", "a brace without its partner"),
        ("Cook title}", "a brace without its partner"),
        ("Cook {{title}}", "a brace without its partner"),
    ],
)
def test_a_wrong_template_is_refused_in_one_line_with_the_remedy(prompt: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        find_template(prompt)
    assert str(error.value).startswith(f"data.prompt={prompt}: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text(max_size=30) | st.lists(st.sampled_from(["{title}", "{ingredients}", "{", "}", "a "])).map("".join))
def test_any_text_is_a_template_or_a_mistake(prompt: str) -> None:
    mistakes: tuple[str, ...] = ()
    try:
        template = find_template(prompt)
    except ConfigError as error:
        mistakes = error.mistakes
    if mistakes:
        (line,) = mistakes
        assert line.startswith("data.prompt=")
        assert "\n" not in line
        return
    filled = TEMPLATES.get(prompt, prompt).replace("{title}", PANCAKES.title)
    shown = filled.replace("{ingredients}", ", ".join(PANCAKES.ingredients))
    assert make_example(PANCAKES, template).source_text == shown


@pytest.mark.parametrize("text", ["Pancakes, please", "", "a {title} of my own", "2 eggs; what now?", "title: Cake"])
def test_a_raw_prompt_stays_as_it_is(text: str) -> None:
    assert parse_prompt(text, BOTH) == text


@pytest.mark.parametrize(
    "text",
    [
        "title=Thin Pancakes; ingredients=1 1/2 cups flour, 2 eggs",
        "ingredients=1½ cups flour,2 eggs;title=Thin  Pancakes",
        " title = Thin Pancakes ;ingredients = 1 1/2 cups flour, , 2 eggs; ",
    ],
)
def test_a_structured_prompt_reads_like_the_prompts_of_training(text: str) -> None:
    for template in TEMPLATES.values():
        assert parse_prompt(text, template) == make_example(PANCAKES, template).source_text


def test_braces_in_a_structured_prompt_are_text() -> None:
    assert parse_prompt("title={ingredients}; ingredients={title}", BOTH) == (
        "Write a recipe for {ingredients} using: {title}"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("title=Cake", "gives no ingredients"),
        ("ingredients=flour", "gives no title"),
        ("title=; ingredients=flour", "gives no title"),
        ("titel=Cake; ingredients=flour", "did you mean title?"),
        ("title=Cake; ingredient=flour", "did you mean ingredients?"),
    ],
)
def test_an_incomplete_structured_prompt_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=r"^prompt ") as error:
        parse_prompt(text, BOTH)
    assert expected in str(error.value)


def mix_of(**keys: object) -> PromptMix:
    return find_prompts(DataConfig.model_validate(keys))


def shares_of(mix: PromptMix) -> dict[str, float]:
    return dict(zip(mix.templates, mix.weights, strict=True))


def test_without_a_mix_training_has_the_prompt_of_evaluation() -> None:
    assert mix_of(prompt="title") == PromptMix(TEMPLATES["title"], (TEMPLATES["title"],), (1.0,))


def test_weights_are_relative_and_do_not_touch_evaluation() -> None:
    mix = mix_of(prompt="title", prompts={"ingredients": 1, "instruction": 3})
    assert mix.held_out == TEMPLATES["title"]
    assert shares_of(mix) == {TEMPLATES["ingredients"]: 0.25, TEMPLATES["instruction"]: 0.75}


def test_a_mix_is_the_same_however_it_is_written() -> None:
    one = DataConfig(prompts={"title": 1, "ingredients": 3})
    other = DataConfig(prompts={"ingredients": 3.0, "title": 1.0})
    assert one == other
    assert list(one.prompts) == list(other.prompts)
    assert find_prompts(one) == find_prompts(other) == mix_of(prompts={"title": 2, "ingredients": 6})


def test_a_mix_takes_names_templates_of_ones_own_and_literal_ones() -> None:
    own = {"mine": "Cook {title}"}
    mix = mix_of(prompt="mine", templates=own, prompts={"mine": 1, "title": 2, "Cook {title}": 1, "Eat {title}": 4})
    assert mix.held_out == "Cook {title}"
    assert shares_of(mix) == {"Cook {title}": 0.25, TEMPLATES["title"]: 0.25, "Eat {title}": 0.5}


def test_paraphrases_share_the_weight_of_their_template_in_training() -> None:
    mix = mix_of(prompt="title", prompts={"title": 3, "Cook {title}": 1}, paraphrase=True)
    wordings = WORDINGS["title"]
    assert mix.held_out == wordings[0]
    assert shares_of(mix) == pytest.approx({"Cook {title}": 0.25, **dict.fromkeys(wordings, 0.75 / len(wordings))})
    assert set(mix_of(paraphrase=True).templates) == set(WORDINGS["title_and_ingredients"])


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"prompts": {"titel": 1.0}}, "data.prompts.titel=1.0: no such template; did you mean title?"),
        ({"prompts": {"Cook {titel}": 2.0}}, "data.prompts.Cook {titel}=2.0: no such placeholder {titel}"),
        ({"templates": {"mine": "Cook {titel}"}}, "data.templates.mine=Cook {titel}: no such placeholder {titel}"),
        ({"templates": {"mine": "Cook {title"}}, "data.templates.mine=Cook {title: a brace without its partner"),
        ({"templates": {"mine": "Cook"}}, "data.templates.mine=Cook: shows nothing of the recipe"),
        ({"templates": {"title": "A {title}"}}, "data.templates.title=A {title}: a built-in template has this name"),
        (
            {"templates": {"mine": "A {title}"}, "prompt": "mime"},
            "data.prompt=mime: no such template; did you mean mine?",
        ),
        ({"prompt": "A {title}", "paraphrase": True}, "data.paraphrase=true: data.prompt names no built-in template"),
        (
            {"prompts": {"A {title}": 1.0}, "paraphrase": True},
            "data.paraphrase=true: data.prompts names no built-in template",
        ),
    ],
)
def test_a_wrong_mix_is_refused_in_one_line_that_names_the_key(keys: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        mix_of(**keys)
    (line,) = error.value.mistakes
    assert line.startswith(expected)


def test_all_mistakes_of_a_mix_come_together() -> None:
    with pytest.raises(ConfigError) as error:
        mix_of(prompt="zzz", prompts={"titel": 1.0, "{": 1.0}, templates={"mine": "{x}"})
    assert [line.partition(":")[0].partition("=")[0] for line in error.value.mistakes] == [
        "data.templates.mine",
        "data.prompt",
        "data.prompts.titel",
        "data.prompts.{",
    ]


@given(
    weights=st.dictionaries(
        st.sampled_from([*TEMPLATES, "A {title}", "B {ingredients}"]), st.floats(1e-6, 1e6), min_size=1
    ),
    paraphrase=st.booleans(),
)
def test_shares_of_any_mix_sum_to_one(weights: dict[str, float], paraphrase: bool) -> None:
    mix = mix_of(prompts=weights, paraphrase=paraphrase and not weights.keys().isdisjoint(TEMPLATES))
    assert sum(mix.weights) == pytest.approx(1.0)
    assert min(mix.weights) > 0
    assert list(mix.templates) == sorted(set(mix.templates))
