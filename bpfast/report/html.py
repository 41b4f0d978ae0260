"""Build a self-contained HTML page: no scripts, no external resources, embedded images.

All data is escaped by `text` or `plain`; only the functions of this module create values of type `Html`.
"""

from __future__ import annotations

import base64
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

#: Characters that HTML does not allow: control characters, surrogates and noncharacters.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Html(str):
    """Markup, as opposed to plain text."""


class Digits(str):
    """A formatted number, right-aligned in a table."""


def plain(value: object) -> Html:
    """Escape a value, also for use within quotes."""
    return Html(escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True))


def text(value: object) -> Html:
    """Escape a value and isolate its writing direction."""
    return value if isinstance(value, Html) else Html(f"<bdi>{plain(value)}</bdi>")


def isolated(name: object) -> str:
    """A name for use in a sentence; one in a right-to-left script does not affect the text around it."""
    shown = str(name)
    right_to_left = any(unicodedata.bidirectional(c) in ("R", "AL", "AN") for c in shown)
    return f"\u2068{shown}\u2069" if right_to_left else shown


def number(value: float) -> str:
    """Format a number for a table: integers in full, others with four significant digits."""
    if isinstance(value, int) or (abs(value) >= 1000 and abs(value) < 1e15):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def table(caption: str, headings: Sequence[object], rows: Iterable[Sequence[Any]]) -> Html:
    """Scrollable table; the first cell of each row is its header, numbers are right-aligned."""
    rows = list(rows)
    numeric = [
        bool(rows) and all(isinstance(row[k], (int, float, Digits)) for row in rows)
        for k in range(len(headings))
    ]
    head = "".join(
        f'<th scope="col"{_alignment(right)}>{text(cell)}</th>'
        for cell, right in zip(headings, numeric, strict=True)
    )
    body = "".join(f"<tr>{_row(row)}</tr>\n" for row in rows)
    return Html(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{plain(caption)}">\n<table>'
        f"<caption>{plain(caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def _alignment(right: bool) -> str:
    return ' class="n"' if right else ""


def _row(cells: Sequence[Any]) -> str:
    parts = []
    for index, cell in enumerate(cells):
        right = isinstance(cell, (int, float, Digits))
        cell = number(cell) if isinstance(cell, (int, float)) else cell
        shown = plain(cell) if right else text(cell)
        if index == 0:
            parts.append(f'<th scope="row"{_alignment(right)}>{shown}</th>')
        else:
            parts.append(f"<td{_alignment(right)}>{shown}</td>")
    return "".join(parts)


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """A list of names and values."""
    lines = "".join(
        f"<div><dt>{plain(name)}</dt><dd>{_sentence(value)}</dd></div>\n" for name, value in pairs
    )
    return Html(f"<dl>\n{lines}</dl>\n")


def paragraph(content: object, kind: str = "") -> Html:
    """A paragraph of text."""
    mark = f' class="{kind}"' if kind else ""
    return Html(f"<p{mark}>{_sentence(content)}</p>\n")


def _sentence(content: object) -> Html:
    """Escape a sentence whose names are already `isolated`."""
    return content if isinstance(content, Html) else plain(content)


def details(summary: str, content: str) -> Html:
    """Content that is collapsed until its summary is clicked."""
    return Html(f"<details><summary>{plain(summary)}</summary>\n{content}</details>\n")


def tiles(items: Iterable[tuple[str, str, str]]) -> Html:
    """Key figures, each with a name, a value and a note."""
    parts = "".join(
        f'<div class="tile"><dt>{plain(name)}</dt><dd class="big">{plain(figure)}</dd>'
        f'<dd class="note">{plain(note)}</dd></div>\n'
        for name, figure, note in items
    )
    return Html(f'<dl class="tiles">\n{parts}</dl>\n')


def bar(share: float) -> Html:
    """A fraction as a bar and as a percentage."""
    return Html(
        '<span class="share"><span class="bar" aria-hidden="true">'
        f'<span style="width:{100 * share:.1f}%"></span></span> {share:.1%}</span>'
    )


def picture(figure: Any, alt: str, caption: str = "") -> Html:
    """A matplotlib figure, embedded as SVG."""
    content = io.BytesIO()
    figure.savefig(content, format="svg", dpi=200, metadata={"Date": None})
    data = base64.b64encode(content.getvalue()).decode("ascii")
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    wide = ' class="wide"' if width > 1000 else ""
    below = f"<figcaption>{plain(caption)}</figcaption>" if caption else ""
    return Html(
        f'<figure><div class="scroll"><img{wide} alt="{plain(alt)}" width="{width}" height="{height}" '
        f'src="data:image/svg+xml;base64,{data}"></div>{below}</figure>\n'
    )


def section(title: str, *content: str) -> Html:
    """A section with a heading."""
    return Html(f"<section>\n<h2>{plain(title)}</h2>\n{''.join(content)}</section>\n")


def page(title: str, *content: str) -> Html:
    """The complete page."""
    return Html(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{plain(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{''.join(content)}</main>\n</body>\n</html>\n"
    )


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2429; --soft: #5a656e; --paper: #fff; --card: #f4f6f8;
  --line: #d8dee3; --mark: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaed; --soft: #a3adb5; --paper: #14181b; --card: #1e2428; --line: #39434a;
    --mark: #56b4e9; }
  img { filter: invert(.92) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: anywhere; }
.soft, .note, figcaption, dt, caption { color: var(--soft); }
.lead { font-size: 1.1rem; }
.warn { border-left: .25rem solid #d55e00; padding-left: .75rem; }
dl { margin: .5rem 0; }
dl > div { display: grid; grid-template-columns: 11rem 1fr; gap: 0 1rem; padding: .2rem 0; }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem;
  margin: 1.2rem 0; }
.tiles .tile { display: block; background: var(--card); border-radius: .5rem; padding: .8rem 1rem; }
.big { font-size: 1.7rem; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums; }
.note, figcaption { font-size: .85rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .92rem; }
caption { text-align: left; padding-bottom: .3rem; font-size: .85rem; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); max-width: 24rem; overflow-wrap: break-word; }
thead th { font-weight: 600; vertical-align: bottom; max-width: 10rem; }
thead .n { white-space: normal; }
tbody th { font-weight: 400; min-width: 4.5rem; }
td:not(.n) { min-width: 6rem; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.share { white-space: nowrap; }
.bar { display: inline-block; width: 7rem; height: .6rem; background: var(--card); }
.bar > span { display: block; height: 100%; background: var(--mark); }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; }
img.wide { min-width: 44rem; }
pre { background: var(--card); border-radius: .5rem; padding: .8rem 1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .9rem; }
summary { cursor: pointer; margin: .6rem 0; }
@media (max-width: 34rem) { dl > div { grid-template-columns: 1fr; } main { padding-top: 1rem; } }
@media print {
  :root { --ink: #000; --soft: #444; --paper: #fff; --card: #f2f2f2; --line: #ccc; --mark: #0072b2; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  img { filter: none; } img.wide { min-width: 0; }
  main { max-width: none; padding: 0; } .scroll { overflow: visible; }
  table { font-size: .7rem; } th, td { overflow-wrap: anywhere; padding-right: .5rem; }
  td:not(.n), tbody th { min-width: 0; }
  h2 { break-after: avoid; } figure, tr, .tile, dl > div { break-inside: avoid; }
}
"""
