from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.data.readers.mastercook import read_mastercook
from recipe_exp.data.readers.rows import Record, Rejection, Row
from recipe_exp.recipes.recipe import Recipe

EGG = '<RcpE name="Egg"><IngR name="egg" qty="1"/><DirS><DirT>\nBoil it.\n</DirT></DirS></RcpE>\n'
EGG_RECIPE = Recipe("Egg", ("1 egg",), ("Boil it.",))
CARD = """* Exported from MasterCook *

          Egg

Recipe By     :
  Amount  Measure       Ingredient -- Preparation Method
--------  ------------  --------------------------------
  1                     egg

Boil it.

     - - - - - - - - - - - - - - - - - -
"""


def rows_of(tmp_path: Path, content: str | bytes) -> list[Row]:
    path = tmp_path / "recipes.mx2"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_mastercook(path))


def outcomes(rows: list[Row]) -> list[object]:
    return [row.reason if isinstance(row, Rejection) else row.content for row in rows]


class TestXml:
    @pytest.mark.parametrize("encoding", ["ISO-8859-1", "windows-1252", "UTF-8"])
    def test_the_declared_encoding_holds_even_in_the_wrong_place(self, tmp_path: Path, encoding: str) -> None:
        text = f'<?xml version="1.0" standalone="yes" encoding="{encoding}"?>\n<mx2>{EGG.replace("Egg", "Crêpe")}</mx2>'
        (row,) = rows_of(tmp_path, text.encode(encoding))
        assert isinstance(row, Record)
        assert (row.line_number, row.content) == (2, Recipe("Crêpe", ("1 egg",), ("Boil it.",)))

    def test_preparations_and_continued_lines_are_joined(self, tmp_path: Path) -> None:
        lines = (
            '<IngR name="beef -" unit="lb" qty="1"><IPrp>\ncubed\n</IPrp></IngR><IngR name="oil and" qty="2"/>'
            '<IngR name="butter"/><IngR name="salt"/>'
        )
        text = f'<mx2><RcpE name="Stew">{lines}<DirS><DirT>Cook.</DirT><DirT>Yield:\n2</DirT></DirS></RcpE></mx2>'
        assert outcomes(rows_of(tmp_path, text)) == [
            Recipe("Stew", ("1 lb beef, cubed", "2 oil and butter", "salt"), ("Cook.",))
        ]

    def test_entities_of_html_are_known(self, tmp_path: Path) -> None:
        text = f'<!DOCTYPE mx2 SYSTEM "mx2.dtd"><mx2>{EGG.replace("Boil", "Saut&eacute; &frac12; of")}</mx2>'
        assert outcomes(rows_of(tmp_path, text)) == [Recipe("Egg", ("1 egg",), ("Sauté ½ of it.",))]

    @pytest.mark.parametrize(
        ("rest", "reason"),
        [
            ("<RcpE name='a'", "not valid XML"),
            ("</wrong>", "not valid XML"),
            ("<RcpE name='" + "x" * 2**22 + "'/></mx2>", "XML element over 1 MiB"),
            ("<RcpE name='a'><DirT>" + "x" * 2**21 + "</DirT></RcpE></mx2>", "recipe over 1 MiB"),
        ],
    )
    def test_what_stands_before_a_fault_is_read(self, tmp_path: Path, rest: str, reason: str) -> None:
        assert outcomes(rows_of(tmp_path, f"<mx2>{EGG}{rest}")) == [EGG_RECIPE, reason]

    def test_entities_that_multiply_are_refused_at_once(self, tmp_path: Path) -> None:
        entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
        started = time.perf_counter()
        rows = rows_of(tmp_path, f'<!DOCTYPE mx2 [<!ENTITY l0 "lol">{entities}]><mx2><RcpE name="&l11;"/></mx2>')
        assert outcomes(rows) == ["not valid XML"]
        assert time.perf_counter() - started < 5.0


class TestText:
    def test_cards_are_read_with_the_line_of_their_header(self, tmp_path: Path) -> None:
        rows = rows_of(tmp_path, "\ufeff" + CARD + "\n\n" + CARD)
        assert [row.line_number for row in rows] == [1, 15]
        assert outcomes(rows) == [EGG_RECIPE, EGG_RECIPE]

    def test_a_card_without_its_end_is_read(self, tmp_path: Path) -> None:
        assert outcomes(rows_of(tmp_path, CARD.rpartition("     -")[0] + CARD)) == [EGG_RECIPE, EGG_RECIPE]

    def test_a_card_in_another_encoding_costs_only_itself(self, tmp_path: Path) -> None:
        latin = CARD.replace("egg", "crème").encode("latin-1")
        assert outcomes(rows_of(tmp_path, latin + CARD.encode())) == ["not UTF-8", EGG_RECIPE]


@settings(max_examples=200, deadline=None)
@given(body=st.text(st.sampled_from("<>/&;=\"' RcpEIngRDirTmx2\n-*"), max_size=100), is_xml=st.booleans())
def test_no_text_raises(tmp_path_factory: pytest.TempPathFactory, body: str, is_xml: bool) -> None:
    text = f"<mx2>{EGG}{body}" if is_xml else f"{CARD[:60]}{body}\n{CARD}"
    rows = rows_of(tmp_path_factory.mktemp("cards", numbered=True), text)
    assert all(isinstance(row, Record | Rejection) for row in rows)
    # Nothing tells where a broken XML goes on, so there it is the card before that has to be read.
    assert outcomes(rows)[0 if is_xml else -1] == EGG_RECIPE
