from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.config.data import DataConfig
from recipe_exp.data.sample import sample_recipes
from recipe_exp.data.split import SPLITS
from recipe_exp.data.tokens.cache import TokenCache, build_or_open_cache
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.data.tokens.vocabulary import train_unigram
from recipe_exp.reports.data_card import DATA_CARD_FILES, render
from recipe_exp.reports.html import as_html
from recipe_exp.reports.markdown import as_markdown, escape
from recipe_exp.reports.page import Card, Cards, Page, Points, Section, Table, share_text

FRACTIONS = {"validation_fraction": 0.2, "test_fraction": 0.1}
HOSTILE = 'Tom\'s "A<B" & <img src=x onerror=alert(1)> | *b* `c` [d](javascript:e) </td>'
HOSTILE_LINE = '1 "☃" & <3 eggs | b'


@pytest.fixture(scope="module")
def tokenizer() -> RecipeTokenizer:
    texts = (text for one in islice(sample_recipes(), 60) for text in (one.title, *one.ingredients, *one.instructions))
    return RecipeTokenizer.from_tokenizer(train_unigram(texts, 500))


def line_of(title: str, ingredients: tuple[str, ...], steps: tuple[str, ...], **more: object) -> str:
    return json.dumps({"title": title, "ingredients": ingredients, "instructions": steps, **more})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, one with a name of its own kind, with duplicates, rejects and what a page must not trip over."""
    folder = tmp_path_factory.mktemp("data")
    recipes = [
        line_of(one.title, (*one.ingredients, HOSTILE_LINE), one.instructions) for one in islice(sample_recipes(), 80)
    ]
    hostile = [
        line_of(f"{HOSTILE} {number}", ("1 ☃", f"{number} | egg"), (f"Stir ☃ {number}.",), source=HOSTILE)
        for number in range(30)
    ]
    (folder / "a.jsonl").write_text("\n".join([*recipes, recipes[0], "{", "", '{"title": "Tea"}']), encoding="utf-8")
    (folder / "<i>b&c.jsonl").write_text("\n".join(hostile), encoding="utf-8")
    return folder


def open_cache(folder: Path, cache_dir: Path, tokenizer: RecipeTokenizer, **changes: Any) -> TokenCache:
    config = DataConfig.model_validate({"path": str(folder), "max_rejected_fraction": 1.0, **FRACTIONS, **changes})
    return build_or_open_cache(config, cache_dir=cache_dir, tokenizer=tokenizer, num_workers=1)


@pytest.fixture(scope="module")
def cache(folder: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer: RecipeTokenizer) -> TokenCache:
    return open_cache(folder, tmp_path_factory.mktemp("cache"), tokenizer)


@pytest.fixture(scope="module")
def texts(cache: TokenCache) -> dict[str, str]:
    return render(cache.prepared, cache.card)


class Document(HTMLParser):
    """Every element, attribute and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


HARMLESS_ATTRIBUTES = {
    *("lang", "charset", "name", "content", "class", "data-name", "role", "aria-label", "aria-hidden"),
    *("viewbox", "preserveaspectratio", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "rx"),
    *("width", "height", "fill", "stroke", "text-anchor"),
}


def test_the_page_shows_every_text_as_it_is_and_loads_nothing(texts: dict[str, str]) -> None:
    page = texts["data_card.html"]
    document = Document(page)
    assert document.open == []
    assert not document.tags & {"script", "img", "link", "iframe", "a", "i", "object", "base"}
    assert document.attributes <= HARMLESS_ATTRIBUTES
    assert not re.search(r"url\(|@import|https?:", page)
    shown = "\n".join(document.texts)
    assert "<img src=x onerror=alert(1)>" in shown, "the source of the records"
    assert "<i>b&c.jsonl" in shown
    assert HOSTILE_LINE in shown, "an ingredient of the examples"
    assert "data.min_quality_score" in shown


@given(text=st.text(max_size=40))
def test_no_text_becomes_markup(text: str) -> None:
    blocks = (
        Points((text,)),
        Table((text, "b"), ((text, text),), title=text, note=text),
        Cards((Card(text, text, ((text,), (text,))),)),
    )
    page = Page(text, text, (Section(text, text, blocks),))
    usual = Page("x", "x", (Section("x", "x", (Points(("x",)), Table(("x", "b"), (("x", "x"),), title="x", note="x"),
                                               Cards((Card("x", "x", (("x",), ("x",))),)))),))  # fmt: skip
    assert Document(as_html(page)).tags <= Document(as_html(usual)).tags
    assert len(as_markdown(page).splitlines()) <= len(as_markdown(usual).splitlines())


@given(text=st.text())
def test_a_text_in_markdown_is_one_line_without_markup(text: str) -> None:
    escaped = escape(text)
    assert len(escaped.splitlines()) <= 1
    assert not re.search(r"[<>]", escaped)
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_\[\]]", escaped)


def test_the_tables_of_the_markdown_are_whole(texts: dict[str, str]) -> None:
    lines = texts["data_card.md"].splitlines()
    tables = re.findall(r"(?m)^(?:\|.*\n)+", texts["data_card.md"])
    assert len(tables) > 8
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    assert lines[0] == "# Data card"


def test_the_facts_are_those_of_the_cards(cache: TokenCache, texts: dict[str, str]) -> None:
    facts, report = json.loads(texts["data_card.json"]), cache.report
    assert facts["data_fingerprint"] == cache.data_fingerprint
    assert facts["report"]["num_examples"] == dict(report.num_examples)
    assert facts["num_records"] == report.num_records == 113
    assert facts["tokens"]["train"]["inexact_target_fraction"] == cache.card.splits["train"].inexact_target_fraction > 0
    assert facts["tokenization"]["max_target_tokens"] == 512
    assert facts["preparation"]["duplicates"] == "drop"
    on_disk = json.loads((cache.prepared.folder / "card.json").read_text(encoding="utf-8"))
    assert facts["statistics"] == on_disk["statistics"]


def test_the_pages_say_what_was_kept_and_why(cache: TokenCache, texts: dict[str, str]) -> None:
    report = cache.report
    html = "".join(Document(texts["data_card.html"]).texts)
    for split in SPLITS:
        assert f"{report.num_examples[split]}{ {'train': 'training'}.get(split, split) } recipes" in html
    assert f"{sum(report.num_examples.values())} of the 113 records" in html
    assert f"unreadable or incomplete 2 ({share_text(2 / 113)})" in html
    assert "1 blank lines are no records" in html
    for reason in ("not valid JSON", "no ingredients", "near the better recipe"):
        assert reason in html
        assert reason in texts["data_card.md"]
    assert "☃ (snowman)nothing" in html
    assert html.count("quality ") >= 10


def test_the_same_cards_give_the_same_texts(
    folder: Path, tmp_path: Path, cache: TokenCache, texts: dict[str, str], tokenizer: RecipeTokenizer
) -> None:
    assert tuple(texts) == DATA_CARD_FILES
    for directory in (cache.folder.parent, tmp_path, tmp_path):
        again = open_cache(folder, directory, tokenizer)
        assert render(again.prepared, again.card) == texts, "from cards that were read, made and read"


def test_an_edited_folder_is_only_counted(cache: TokenCache, tmp_path: Path, tokenizer: RecipeTokenizer) -> None:
    copy = Path(shutil.copytree(cache.prepared.folder, tmp_path / "copy"))
    config = {"format": "prepared"}
    whole = open_cache(copy, tmp_path / "cache", tokenizer, **config)
    same, original = render(whole.prepared, whole.card), render(cache.prepared, cache.card)
    assert same == original, "a copy is the same data"
    lines = (copy / "train.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "train.jsonl").write_bytes(b"".join(lines[1:]))
    edited = open_cache(copy, tmp_path / "cache", tokenizer, **config)
    rendered = render(edited.prepared, edited.card)
    page, facts = "".join(Document(rendered["data_card.html"]).texts), json.loads(rendered["data_card.json"])
    assert "only what can be counted is known" in page
    assert "Vocabulary" in page
    assert f"{len(lines) - 1}training recipes" in page
    for section in ("What was left out", "Duplicates", "The split", "Lengths", "Examples"):
        assert section not in page
    assert facts["statistics"] is None
    assert facts["preparation"] is None
    assert facts["report"]["num_examples"]["train"] == len(lines) - 1


def test_pairs_without_anything_held_out_have_a_page_too(tmp_path: Path, tokenizer: RecipeTokenizer) -> None:
    (tmp_path / "data").mkdir()
    lines = [json.dumps({"input": f"Soup {number}?", "output": f"Stir it {number} times."}) for number in range(20)]
    (tmp_path / "data" / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    whole = {"validation_fraction": 0.0, "test_fraction": 0.0}
    cache = open_cache(tmp_path / "data", tmp_path / "cache", tokenizer, **whole)
    rendered = render(cache.prepared, cache.card)
    document = Document(rendered["data_card.html"])
    page = "".join(document.texts)
    assert "Nothing is held out" in page
    assert "Words of the whole recipe" in page
    assert "Words of the title" not in page
    assert "circle" not in document.tags
    assert page.count("Soup ") == 2 * 10, "the title and the prompt of each example"


def test_a_share_that_is_not_the_whole_is_not_shown_as_the_whole() -> None:
    shares = (0.0, 1e-9, 0.0012, 0.1234, 0.99999, 1.0)
    assert [share_text(share) for share in shares] == ["0%", "< 0.01%", "0.12%", "12.3%", "99.9%", "100%"]
