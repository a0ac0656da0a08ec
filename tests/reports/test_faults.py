from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.metrics import Reading
from recipe_exp.recipes import Recipe, render_markdown
from recipe_exp.reports.faults import mark_faults

SOUP = Recipe(
    "Onion Soup",
    ("2 onions", "1 l beef stock", "100 g cheese"),
    ("Chop the onions.", "Simmer them in the stock for 20 minutes.", "Serve with the cheese."),
)


def faults_of(text: str, asked: tuple[str, ...] = ()) -> tuple[set[str], dict[str, str]]:
    whole, parts = mark_faults(Reading(text, "", asked))
    assert "".join(part.text for part in parts) == text
    return set(whole), {part.text: part.fault for part in parts if part.fault}


def test_a_sound_recipe_has_no_marks() -> None:
    assert faults_of(render_markdown(SOUP), ("2 onions",)) == (set(), {})


def test_each_fault_is_marked_where_it_is() -> None:
    text = (
        "**Onion Soup**\n\n**Ingredients:**\n- 2 onions\n- 1 l beef stock\n- 3 carrots\n- 2 onions\n\n"
        "**Instructions:**\n1. Chop the onions.\n2. Simmer in the stock with garlic.\n2. Chop the onions.\n"
        "7. Serve the stock.\n5. The stock.\n6. Go"
    )
    whole, marked = faults_of(text, ("2 onions", "1 leek"))
    assert whole == {"asked for and not listed: 1 leek", "breaks off at its end"}
    assert marked == {
        "- 3 carrots": "no step uses it",
        "- 2 onions": "listed before",
        "garlic": "not listed",
        "2. Chop the onions.": "repeats an earlier step",
        "7. Serve the stock.": "has no number 4",
        "5. The stock.": "nothing is done",
        "6. Go": "too short",
    }


def test_missing_parts_are_named() -> None:
    whole, _ = faults_of("")
    assert whole == {"no title", "no ingredient list", "no instructions"}


@given(st.text(max_size=300))
def test_no_text_is_lost_or_changed(text: str) -> None:
    _, parts = mark_faults(Reading(text))
    assert "".join(part.text for part in parts) == text


@given(st.lists(st.sampled_from([*render_markdown(SOUP).splitlines(), "", "x", "- <b>"]), max_size=20))
def test_lines_in_any_order_are_kept(lines: list[str]) -> None:
    text = "\n".join(lines)
    _, parts = mark_faults(Reading(text, "", ("1 <i>leek</i>",)))
    assert "".join(part.text for part in parts) == text
