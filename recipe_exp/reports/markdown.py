"""A page as Markdown that shows every text as it is."""

from __future__ import annotations

import re

from recipe_exp.reports.page import (
    Block,
    Cards,
    Charts,
    Code,
    Curves,
    Figures,
    MarkedText,
    MarkedTexts,
    Page,
    Parallel,
    Plot,
    Plots,
    Points,
    Ranges,
    Section,
    Shares,
    Table,
    count_text,
    share_text,
)

_MARKUP = re.compile(r"([\\`*_{}\[\]#|~])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def as_markdown(page: Page) -> str:
    """Returns the page as Markdown with tables."""
    parts = [f"# {escape(page.title)}", escape(page.lead), *(_section(section) for section in page.sections)]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Returns a text in one line that Markdown shows as it is."""
    plain = " ".join(text.split())
    plain = "".join(_ENTITIES.get(character, character) for character in plain)
    return _MARKUP.sub(r"\\\1", plain)


def _section(section: Section) -> str:
    blocks = [_block(block) for block in section.blocks]
    return "\n\n".join([f"## {escape(section.title)}", escape(section.explanation), *blocks])


def _block(block: Block) -> str:
    match block:
        case Figures():
            rows = tuple((one.label, one.value, one.explanation) for one in block.figures)
            return _table(Table(("", "", ""), rows, num_texts=3))
        case Points():
            return "\n".join(f"- {escape(sentence)}" for sentence in block.sentences)
        case Shares():
            whole = sum(size for _, size in block.parts)
            rows = tuple((label, count_text(size), share_text(size / whole)) for label, size in block.parts if size)
            return _table(Table(("", "records", "share"), rows))
        case Table():
            return _table(block)
        case Charts():
            return "\n\n".join(_chart(block, number) for number in range(len(block.charts)))
        case Plots():
            return "\n\n".join(_plot(plot) for plot in block.plots)
        case Code():
            return f"```\n{block.text}\n```"
        case Cards():
            return "\n\n".join(_card(block, number) for number in range(len(block.cards)))
        case Curves():
            series = tuple(
                (curve.title, line.name, f"{line.points[0][1]:.4g}", f"{line.points[-1][1]:.4g}")
                for curve in block.curves
                for line in curve.lines
                if line.points
            )
            return _table(Table(("", "", "first", "last"), series, num_texts=2))
        case Ranges():
            return _table(Table(("", block.name), tuple((each.label, each.value) for each in block.ranges)))
        case MarkedTexts():
            return "\n\n".join(_marked(text) for text in block.texts)


def _marked(text: MarkedText) -> str:
    found = [*text.faults, *(f"{part.text.strip()}: {part.fault}" for part in text.parts if part.fault)]
    lines = [f"### {escape(text.title)}", escape(text.note), *(f"- {escape(fault)}" for fault in found)]
    return "\n\n".join([*lines, escape("".join(part.text for part in text.parts))])


def _table(table: Table) -> str:
    rule = ["---" if number < table.num_texts else "---:" for number in range(len(table.columns))]
    rows = [[escape(cell) for cell in row] for row in (table.columns, *table.rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in (rows[0], rule, *rows[1:])]
    title = [f"**{escape(table.title)}**", ""] if table.title else []
    note = ["", escape(table.note)] if table.note else []
    return "\n".join([*title, *lines, *note])


def _chart(charts: Charts, number: int) -> str:
    chart = charts.charts[number]
    columns = (chart.title, charts.bars_name, *([charts.dots_name] if chart.dots else []))
    values = zip(*([chart.bars, chart.dots] if chart.dots else [chart.bars]), strict=True)
    rows = zip(chart.labels, values, strict=True)
    shown = tuple((label, *map(share_text, shares)) for label, shares in rows if any(shares))
    return _table(Table(columns, shown, note=chart.note))


def _plot(plot: Plot | Parallel) -> str:
    """A plot as the numbers that it is drawn from; parallel coordinates say nothing that a table would not."""
    if isinstance(plot, Parallel):
        return f"**{escape(plot.title)}**\n\n{escape(plot.note)}"
    rows = tuple(
        (line.name, plot.x_labels[round(x)] if plot.x_labels else f"{x:g}", f"{y:g}")
        for line in plot.lines
        for x, y in line.points
    )
    return _table(Table(("", plot.x_name, plot.y_name), rows, title=plot.title, note=plot.note))


def _card(cards: Cards, number: int) -> str:
    card = cards.cards[number]
    lists = ["\n".join(f"- {escape(line)}" for line in lines) for lines in card.lists if lines]
    return "\n\n".join([f"### {escape(card.title)}", *([escape(card.note)] if card.note else []), *lists])
