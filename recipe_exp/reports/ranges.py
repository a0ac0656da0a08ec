"""Values with intervals among what they are compared with, each on its own scale."""

from __future__ import annotations

from html import escape

from recipe_exp.reports.page import Range, Ranges

_WIDTH, _HEIGHT, _MIDDLE = 500, 20, 10
_ROOM = 8

RANGES_STYLE = """
.ranges{display:grid;grid-template-columns:minmax(9rem,13rem) minmax(8rem,1fr) max-content;gap:.15rem 1rem;
align-items:center;margin:0 0 1.25rem;font-size:.9375rem}
.ranges svg{display:block;width:100%;height:1.25rem}
.ranges b{font-weight:600}.ranges small{display:block;color:var(--soft);font-size:.75rem;line-height:1.2}
.ranges .v{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.range{display:contents}.range .t{min-width:0}
@media(max-width:40rem){.ranges{display:block}.range{display:grid;grid-template-columns:minmax(0,1fr) max-content;
gap:.1rem .75rem;margin:0 0 .7rem}.range .t{grid-column:1/-1;order:1}}
"""


def ranges_html(block: Ranges) -> str:
    """Returns the scales as HTML."""
    entries = [
        (
            '<path d="M1 5H9" stroke="var(--main)" stroke-width="3"/><circle cx="5" cy="5" r="3.5" '
            'fill="var(--main)"/>',
            f"{block.name}, with its interval",
        )
    ]
    entries += [(_mark(5, 5, number), name) for number, name in enumerate(block.marks)]
    legend = "".join(
        f'<li><svg viewBox="0 0 10 10" aria-hidden="true">{drawn}</svg>{escape(name)}</li>' for drawn, name in entries
    )
    rows = "".join(_row(each, block) for each in block.ranges)
    return f'<ul class="legend">{legend}</ul><div class="ranges">{rows}</div>'


def _row(each: Range, block: Ranges) -> str:
    label = f'<div class="l"><b>{breakable(each.label)}</b><small>{escape(each.note)}</small></div>'
    value = f'<div class="v">{escape(each.value)}</div>'
    drawn = [f'<path d="M{_ROOM} {_MIDDLE}H{_WIDTH - _ROOM}" stroke="var(--line)" stroke-width="2"/>']
    for number, place in enumerate(each.marks):
        if place is not None:
            drawn.append(_mark(_x(place), _MIDDLE, number, block.marks[number]))
    drawn.append(
        f'<path d="M{_x(each.low):.1f} {_MIDDLE}H{_x(each.high):.1f}" stroke="var(--main)" stroke-width="5" '
        f'stroke-linecap="round" opacity=".45"/>'
        f'<circle cx="{_x(each.share):.1f}" cy="{_MIDDLE}" r="5" fill="var(--main)">'
        f"<title>{escape(block.name)}: {escape(each.value)}</title></circle>"
    )
    # A place for the drawing that does not stretch its dots: the height is fixed, the width follows.
    chart = (
        f'<div class="t"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" preserveAspectRatio="xMinYMid meet" '
        f'aria-label="{escape(each.label)}: {escape(each.value)}">{"".join(drawn)}</svg></div>'
    )
    return f'<div class="range">{label}{chart}{value}</div>'


def breakable(text: str) -> str:
    """Returns a text as HTML whose names may be broken behind their underscores, where a page is narrow."""
    return escape(text).replace("_", "_<wbr>")


def _x(share: float) -> float:
    return _ROOM + (_WIDTH - 2 * _ROOM) * min(max(share, 0.0), 1.0)


def _mark(x: float, y: float, number: int, name: str = "") -> str:
    """Shapes differ as well as colours, for eyes and printers that see none."""
    title = f"<title>{escape(name)}</title>" if name else ""
    match number % 4:
        case 0:
            path = f"M{x:.1f} {y - 4.5}L{x + 4.5:.1f} {y}L{x:.1f} {y + 4.5}L{x - 4.5:.1f} {y}Z"
            return f'<path d="{path}" fill="var(--other)">{title}</path>'
        case 1:
            return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5}" width="7" height="7" fill="var(--third)">{title}</rect>'
        case 2:
            path = f"M{x:.1f} {y - 4}L{x + 4.5:.1f} {y + 4}L{x - 4.5:.1f} {y + 4}Z"
            return f'<path d="{path}" fill="var(--bad)">{title}</path>'
        case _:
            return f'<path d="M{x:.1f} {y - 4.5}V{y + 4.5}" stroke="var(--ink)" stroke-width="2.5">{title}</path>'
