"""Texts with their faults marked, as HTML; every text is hostile until it is escaped."""

from __future__ import annotations

from html import escape

from recipe_exp.reports.page import MarkedText, MarkedTexts, Part

MARKED_STYLE = """
details.text{border:1px solid var(--line);border-radius:8px;margin:0 0 .7rem;background:var(--shade)}
details.text summary{cursor:pointer;padding:.6rem .9rem;display:flex;flex-wrap:wrap;gap:.1rem 1rem;
justify-content:space-between;overflow-wrap:anywhere}
details.text summary::before{content:"\\25B8";color:var(--soft);margin-right:-.4rem}
details.text[open] summary::before{content:"\\25BE"}
details.text summary b{flex:1 1 12rem}
details.text summary span{color:var(--soft);font-size:.875rem;font-variant-numeric:tabular-nums}
.inside{padding:0 .9rem .9rem;font-size:.9375rem}
.inside .prompt{color:var(--soft);margin:0 0 .6rem;overflow-wrap:anywhere}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(19rem,100%),1fr));gap:1rem}
.pair h4{margin:0 0 .3rem;font-size:.8125rem;color:var(--soft);font-weight:600}
.pair .body{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--paper);border:1px solid var(--line);
border-radius:6px;padding:.7rem .8rem;line-height:1.45}
mark{background:var(--mark);color:inherit;border-bottom:2px solid var(--bad);border-radius:2px}
mark+small.why{color:var(--bad);font-size:.75rem;margin-left:.35rem;white-space:normal}
.faults{color:var(--bad)}
"""


def marked_html(block: MarkedTexts) -> str:
    """Returns the texts as HTML, the first one unfolded."""
    texts = "".join(_text(text, is_open=number == 0) for number, text in enumerate(block.texts))
    return f"<h3>{escape(block.title)}</h3>{texts}"


def _text(text: MarkedText, *, is_open: bool) -> str:
    faults = "".join(f"<li>{escape(fault)}</li>" for fault in text.faults)
    listed = f'<ul class="faults">{faults}</ul>' if faults else ""
    body = "".join(map(_part, text.parts))
    return (
        f'<details class="text"{" open" if is_open else ""}><summary><b>{escape(text.title) or "&nbsp;"}</b>'
        f"<span>{escape(text.note)}</span></summary>"
        f'<div class="inside"><p class="prompt">{escape(text.prompt)}</p>'
        f'{listed}<div class="pair"><div><h4>generated</h4><div class="body">{body}</div></div>'
        f'<div><h4>reference</h4><div class="body">{escape(text.reference)}</div></div></div></div></details>'
    )


def _part(part: Part) -> str:
    if not part.fault:
        return escape(part.text)
    why = escape(part.fault)
    return f'<mark title="{why}">{escape(part.text)}</mark><small class="why">{why}</small>'
