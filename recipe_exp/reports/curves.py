"""Track charts as SVG, beside each other."""

from __future__ import annotations

from html import escape

from recipe_exp.reports.page import Curve, Curves, Track

_WIDTH, _LEFT, _TOP, _BASE, _HEIGHT = 320, 46, 10, 128, 150
_COLOURS = ("var(--main)", "var(--other)", "var(--third)")
_SHOWN_POINTS = 240

CURVES_STYLE = """
.key{display:flex;flex-wrap:wrap;gap:.1rem .9rem;color:var(--soft);font-size:.8125rem;list-style:none;margin:.2rem 0 0;
padding:0}
.key li{margin:0}.key svg{display:inline-block;width:1.1rem;height:.6rem;margin:0 .35rem 0 0}
"""


def curves_html(block: Curves) -> str:
    """Returns the charts as HTML."""
    return f'<div class="charts">{"".join(_curve(curve, block.axis) for curve in block.curves)}</div>'


def number_text(value: float) -> str:
    """Returns a number as it is read on an axis: three digits, `4.8e-04` where the first ones would be noughts."""
    return f"{value:.1e}" if 0 < abs(value) < 1e-2 else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _curve(curve: Curve, axis: str) -> str:
    lines = [Track(line.name, _thinned(line.points)) for line in curve.lines if line.points]
    points = [point for line in lines for point in line.points]
    level = [] if curve.level is None else [curve.level]
    low_x, high_x = _ends([x for x, _ in points])
    low_y, high_y = _ends([*(y for _, y in points), *level])

    def place(x: float, y: float) -> tuple[float, float]:
        right = _LEFT + (_WIDTH - _LEFT - 6) * (x - low_x) / (high_x - low_x)
        return right, _BASE - (_BASE - _TOP) * (y - low_y) / (high_y - low_y)

    drawn = [f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y}" y2="{y}" stroke="var(--line)"/>' for y in (_TOP, _BASE)]
    if curve.level is not None:
        y = place(low_x, curve.level)[1]
        drawn.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--soft)" stroke-dasharray="4 3">'
            f"<title>{escape(curve.level_name)}: {number_text(curve.level)}</title></line>"
        )
    for line, colour in zip(lines, _COLOURS, strict=False):
        drawn.append(_polyline([place(x, y) for x, y in line.points], colour, line))
    drawn += [
        f'<text x="{_LEFT - 5}" y="{_TOP + 4}" text-anchor="end">{number_text(high_y)}</text>',
        f'<text x="{_LEFT - 5}" y="{_BASE + 3}" text-anchor="end">{number_text(low_y)}</text>',
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{number_text(low_x)}</text>',
        f'<text x="{_WIDTH}" y="{_HEIGHT - 6}" text-anchor="end">{escape(axis)} {number_text(high_x)}</text>',
    ]
    return (
        f"<figure><figcaption><b>{escape(curve.title)}</b><span>{escape(curve.note)}</span></figcaption>"
        f"{_key(curve, lines)}"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(curve.title)}">{"".join(drawn)}</svg>'
        "</figure>"
    )


def _polyline(places: list[tuple[float, float]], colour: str, line: Track) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    (x, y), (_, last) = places[-1], line.points[-1]
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}">'
        f"<title>{escape(line.name)}: {number_text(last)}</title></circle>"
    )


def _key(curve: Curve, lines: list[Track]) -> str:
    entries = [
        (f'<path d="M0 5H18" stroke="{colour}" stroke-width="2.5"/>', line.name)
        for line, colour in zip(lines, _COLOURS, strict=False)
    ]
    if curve.level is not None:
        entries.append(
            ('<path d="M0 5H18" stroke="var(--soft)" stroke-width="1.5" stroke-dasharray="4 3"/>', curve.level_name)
        )
    if len(entries) < 2:
        return ""
    items = "".join(
        f'<li><svg viewBox="0 0 18 10" aria-hidden="true">{drawn}</svg>{escape(name)}</li>' for drawn, name in entries
    )
    return f'<ul class="key">{items}</ul>'


def _thinned(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """Returns at most as many points as can be told apart: means of neighbours, the last one as it is."""
    if len(points) <= _SHOWN_POINTS:
        return points
    size = -(-len(points) // _SHOWN_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    means = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return (*means[:-1], points[-1])


def _ends(values: list[float]) -> tuple[float, float]:
    """Returns the ends of an axis, a little apart where all values are the same."""
    low, high = min(values), max(values)
    if low < high:
        return low, high
    room = abs(low) * 0.05 or 0.5
    return low - room, high + room
