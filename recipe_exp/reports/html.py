"""A page as HTML in one file: no script, nothing that is loaded, readable on a phone, on paper and in the dark."""

from __future__ import annotations

from html import escape

from recipe_exp.reports.curves import CURVES_STYLE, curves_html
from recipe_exp.reports.marked import MARKED_STYLE, marked_html
from recipe_exp.reports.page import (
    Block,
    Card,
    Cards,
    Chart,
    Charts,
    Code,
    Curves,
    Figures,
    MarkedTexts,
    Page,
    Plots,
    Points,
    Ranges,
    Section,
    Shares,
    Table,
    count_text,
    share_text,
)
from recipe_exp.reports.plots import plots_as_html
from recipe_exp.reports.ranges import RANGES_STYLE, breakable, ranges_html

_WIDTH, _HEIGHT, _BASE, _TOP = 320, 150, 128, 18
_NUM_TICKS = 4
_NARROW_COLUMNS = 3
_COLOURS = ("#2f6f5e", "#c8963e", "#b5533c", "#7a6c9d", "#5d8aa8", "#8c8c83")
_STYLE = """
:root{--ink:#22261f;--soft:#61665c;--line:#e2e0d8;--paper:#fff;--shade:#f6f5f0;--main:#2f6f5e;--other:#c8963e;
--third:#7a6c9d;--bad:#b5533c;--mark:#f6dccf;color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--ink:#e4e6df;--soft:#a2a89b;--line:#3a3f37;--paper:#23271f;--shade:#191c17;
--main:#6fb8a2;--other:#dcae5d;--third:#a99bd0;--bad:#e08a72;--mark:#5a3226}}
@media print{:root{--ink:#22261f;--soft:#61665c;--line:#e2e0d8;--paper:#fff;--shade:#f6f5f0;--main:#2f6f5e;
--other:#c8963e;--third:#7a6c9d;--bad:#b5533c;--mark:#f6dccf}}
*{box-sizing:border-box}
body{margin:0;background:var(--shade);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main{max-width:62rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:2rem;line-height:1.2;margin:0 0 .5rem}
.lead{font-size:1.15rem;max-width:46rem;margin:0 0 2rem}
section{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:1.5rem;margin:0 0 1.25rem}
h2{font-size:1.25rem;margin:0 0 .25rem}
h3{font-size:1rem;margin:1.5rem 0 .4rem}
.about{color:var(--soft);margin:0 0 1.25rem;max-width:46rem}
.note,.figure small,figcaption span{color:var(--soft);font-size:.875rem;line-height:1.4}
.note{margin:.5rem 0 0}
details.more summary{cursor:pointer;font-weight:600;padding:.3rem 0}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:1rem 1.5rem;margin:0 0 1.25rem}
.figure b{display:block;font-size:1.75rem;line-height:1.2;font-weight:650;font-variant-numeric:tabular-nums}
.figure span{display:block;font-weight:600;overflow-wrap:anywhere}
.figure small{display:block}
ul{margin:0 0 1.25rem;padding-left:1.2rem}
li{margin:.3rem 0;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:0 0 .25rem}
table{border-collapse:collapse;width:100%;font-size:.9375rem}
th,td{padding:.4rem .9rem .4rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
td{overflow-wrap:anywhere;min-width:5rem}
th{font-weight:600;color:var(--soft);font-size:.8125rem;vertical-align:bottom}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums;min-width:0;padding:.4rem 0 .4rem .9rem}
td.n{white-space:nowrap}
.texts td:first-child{min-width:14rem}
.wide td:first-child{min-width:11.5rem}
tr:last-child td{border-bottom:0}
.shares{display:flex;height:1.6rem;border-radius:5px;overflow:hidden;margin:0 0 .6rem}
.shares svg{display:block;width:100%;height:100%}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.4rem;margin:0 0 1.25rem;padding:0;list-style:none;font-size:.9375rem}
.legend li{margin:0}
.legend svg{width:.75rem;height:.75rem;margin-right:.45rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(17rem,100%),1fr));gap:1.5rem 2rem;
margin:0 0 1.25rem}
figure{margin:0}
figcaption b{display:block}
figcaption span{display:block}
figure svg{display:block;width:100%;height:auto;margin-top:.35rem}
figure text{font-size:11px;fill:var(--soft)}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(22rem,100%),1fr));gap:1.5rem 2rem;
margin:0 0 1.25rem}
.wide-figure{grid-column:1/-1;overflow-x:auto}
.wide-figure svg{min-width:34rem}
pre{margin:1rem 0 0;white-space:pre-wrap;overflow-wrap:anywhere;padding:.8rem 1rem;background:var(--shade);
border:1px solid var(--line);border-radius:8px;
font:.875rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.cards{columns:20rem;column-gap:1.25rem}
.card{break-inside:avoid;border:1px solid var(--line);border-radius:8px;padding:.9rem 1rem;margin:0 0 1.25rem;
background:var(--shade);font-size:.9375rem}
.card h3{margin:0 0 .1rem;overflow-wrap:anywhere}
.card ul,.card ol{margin:.6rem 0 0;padding-left:1.3rem}
.card li{margin:.15rem 0}
@media(max-width:40rem){main{padding:1.5rem .75rem 3rem}section{padding:1.1rem 1rem}h1{font-size:1.6rem}
.figures{grid-template-columns:repeat(auto-fit,minmax(8rem,1fr))}.figure b{font-size:1.5rem}th,td{padding-right:.7rem}
.wide thead{display:none}.wide tr{display:block;padding:.6rem 0;border-bottom:1px solid var(--line)}
.wide tr:last-child{border-bottom:0}
.wide td,.wide td.n{display:flex;gap:1rem;justify-content:space-between;padding:.1rem 0;border:0;white-space:normal}
.wide td::before{content:attr(data-name);color:var(--soft);font-size:.8125rem;flex:0 0 40%;
text-align:left}
.wide td{text-align:right}.wide td:first-child{text-align:left;font-weight:600}
.wide td:first-child::before,.wide td[data-name=""]::before{display:none}.wide td[data-name=""]{text-align:left}}
@media print{body{background:#fff;font-size:11pt}main{max-width:none;padding:0}section{border:0;border-top:1px solid
var(--line);border-radius:0;padding:1rem 0}.figures,figure,tr,.card{break-inside:avoid}h2,h3{break-after:avoid}
.scroll{overflow:visible}}
"""


def as_html(page: Page) -> str:
    """Returns the page as a document of its own."""
    title = escape(page.title)
    sections = "".join(_section(section) for section in page.sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_STYLE}{CURVES_STYLE}{RANGES_STYLE}{MARKED_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        f'<p class="lead">{escape(page.lead)}</p>\n{sections}</main>\n</body>\n</html>\n'
    )


def _section(section: Section) -> str:
    blocks = "".join(f"{_block(block)}\n" for block in section.blocks)
    about = f'<p class="about">{escape(section.explanation)}</p>\n'
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{about}{blocks}</section>\n"


def _block(block: Block) -> str:
    match block:
        case Figures():
            return _figures(block)
        case Points():
            return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in block.sentences)}</ul>"
        case Shares():
            return _shares(block)
        case Table():
            return _table(block)
        case Charts():
            return _charts(block)
        case Plots():
            return plots_as_html(block)
        case Code():
            return f'<pre class="scroll">{escape(block.text)}</pre>'
        case Cards():
            return f'<div class="cards">{"".join(map(_card, block.cards))}</div>'
        case Curves():
            return curves_html(block)
        case Ranges():
            return ranges_html(block)
        case MarkedTexts():
            return marked_html(block)


def _figures(block: Figures) -> str:
    figures = "".join(
        f'<div class="figure"><b>{escape(one.value)}</b><span>{breakable(one.label)}</span>'
        f"<small>{escape(one.explanation)}</small></div>"
        for one in block.figures
    )
    return f'<div class="figures">{figures}</div>'


def _shares(block: Shares) -> str:
    whole = sum(size for _, size in block.parts)
    coloured = [(colour, label, size) for colour, (label, size) in zip(_COLOURS, block.parts, strict=False) if size]
    bars, start = "", 0.0
    for colour, label, size in coloured:
        width = 100 * size / whole
        place = f'x="{start:.3f}" width="{width:.3f}" height="10"'
        bars += f'<rect {place} fill="{colour}"><title>{escape(label)}</title></rect>'
        start += width
    legend = "".join(
        f'<li><svg viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" rx="2" fill="{colour}"/></svg>'
        f"{escape(label)} {count_text(size)} ({share_text(size / whole)})</li>"
        for colour, label, size in coloured
    )
    return (
        '<div class="shares"><svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'{bars}</svg></div><ul class="legend">{legend}</ul>'
    )


def _table(table: Table) -> str:
    kinds = ["" if number < table.num_texts else ' class="n"' for number in range(len(table.columns))]
    # A narrow screen shows a wide row as a list, each cell beside its heading.
    names = [f'{kind} data-name="{escape(name)}"' for kind, name in zip(kinds, table.columns, strict=True)]
    title = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    head, rows = _row(table.columns, "th", kinds), "".join(_row(cells, "td", names) for cells in table.rows)
    is_text = table.num_texts == len(table.columns)
    classes = ["wide"] * (is_text or len(table.columns) > _NARROW_COLUMNS) + ["texts"] * is_text
    shown = f'<table class="{" ".join(classes)}"><thead>{head}</thead><tbody>{rows}</tbody></table>'
    if table.is_folded:
        summary = f"<summary>{escape(table.title)}</summary>"
        return f'<details class="more">{summary}<div class="scroll">{shown}</div>{note}</details>'
    return f'{title}<div class="scroll">{shown}</div>{note}'


def _row(cells: tuple[str, ...], tag: str, attributes: list[str]) -> str:
    shown = (f"<{tag}{attribute}>{escape(cell)}</{tag}>" for cell, attribute in zip(cells, attributes, strict=True))
    return f"<tr>{''.join(shown)}</tr>"


def _charts(block: Charts) -> str:
    legend = (
        '<ul class="legend"><li><svg viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" rx="2" '
        f'fill="var(--main)"/></svg>{escape(block.bars_name)}</li>'
    )
    if any(chart.dots for chart in block.charts):
        legend += (
            '<li><svg viewBox="0 0 10 10" aria-hidden="true"><circle cx="5" cy="5" r="4" fill="var(--other)"/></svg>'
            f"{escape(block.dots_name)}</li>"
        )
    charts = "".join(_chart(chart, block) for chart in block.charts)
    return f'{legend}</ul><div class="charts">{charts}</div>'


def _chart(chart: Chart, block: Charts) -> str:
    largest = max((*chart.bars, *chart.dots), default=0.0) or 1.0
    step = _WIDTH / max(len(chart.bars), 1)
    drawn = [f'<line x1="0" x2="{_WIDTH}" y1="{_BASE}" y2="{_BASE}" stroke="var(--line)"/>']
    drawn.append(f'<text x="0" y="11">{share_text(largest)}</text>')
    for number, (label, share) in enumerate(zip(chart.labels, chart.bars, strict=True)):
        height = (_BASE - _TOP) * share / largest
        drawn.append(
            f'<rect x="{number * step + 1:.2f}" y="{_BASE - height:.2f}" width="{step - 2:.2f}" height="{height:.2f}" '
            f'fill="var(--main)"><title>{escape(label)}: {share_text(share)}</title></rect>'
        )
    for number, share in enumerate(chart.dots):
        if not share:
            continue
        y = _BASE - (_BASE - _TOP) * share / largest
        drawn.append(
            f'<circle cx="{(number + 0.5) * step:.2f}" cy="{y:.2f}" r="3" fill="var(--other)" stroke="#fff">'
            f"<title>{escape(block.dots_name)}, {escape(chart.labels[number])}: {share_text(share)}</title></circle>"
        )
    drawn += _ticks(chart.labels, step)
    caption = f"<figcaption><b>{escape(chart.title)}</b><span>{escape(chart.note)}</span></figcaption>"
    shown = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(chart.title)}">{"".join(drawn)}</svg>'
    )
    return f"<figure>{caption}{shown}</figure>"


def _ticks(labels: tuple[str, ...], step: float) -> list[str]:
    """Labels below the first bin, the last one and some between them."""
    last = len(labels) - 1
    ticks = []
    for number in sorted({*range(0, last, -(-len(labels) // _NUM_TICKS)), last}):
        anchor = "start" if number == 0 else "end" if number == last else "middle"
        x = 0 if number == 0 else _WIDTH if number == last else (number + 0.5) * step
        ticks.append(f'<text x="{x:.2f}" y="{_BASE + 16}" text-anchor="{anchor}">{escape(labels[number])}</text>')
    return ticks


def _card(card: Card) -> str:
    note = f'<p class="note">{escape(card.note)}</p>' if card.note else ""
    tags = ("ul", "ol")
    lists = "".join(
        f"<{tag}>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</{tag}>"
        for tag, lines in zip(tags, card.lists, strict=False)
        if lines
    )
    return f'<article class="card"><h3>{escape(card.title)}</h3>{note}{lists}</article>'
