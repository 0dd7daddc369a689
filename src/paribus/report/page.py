"""A report as one page of HTML that needs nothing else: no script, no request, its pictures inside it.
No torch, no lightning."""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from paribus.report.figures import Picture
from paribus.report.sections import Section, Table
from paribus.report.sentences import ALARMS
from paribus.report.style import CSS
from paribus.tables import html_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# The pictures' colours become the page's, which it has twice, for the light and for the dark.
COLORS = {
    "#ffffff": "paper", "#111111": "ink", "#000000": "ink", "#555555": "grey", "#d9d9d9": "pale", "#0072b2": "blue",
    "#d55e00": "orange", "#009e73": "green", "#cc79a7": "pink", "#e69f00": "amber", "#56b4e9": "sky",
}  # fmt: skip


def page(title: str, source: str | None, sections: Sequence[Section]) -> str:
    """The whole document. The policy in its head lets a browser load nothing, whatever the runs' words hold."""
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}</title>",
        f"<style>{CSS}</style>",
    ]
    said = f'<p class="quiet">Source of the question: {escape(source)}</p>' if source else ""
    body = [f"<header><h1>{escape(title)}</h1>{said}</header>", *map(_section, sections)]
    return "\n".join(
        ['<!doctype html>', '<html lang="en">', "<head>", *head, "</head>", "<body>", "<main>", *body, "</main>",
         "</body>", "</html>", ""]
    )  # fmt: skip


def _section(section: Section) -> str:
    parts = []
    if section.sentences:
        kind = "" if section.title else ' class="answer"'
        parts.append(f"<p{kind}>{escape(' '.join(section.sentences))}</p>")
    if section.table:
        parts.append(_table(section.table, section.title or "Results"))
    if section.legend:
        parts.append(f'<p class="quiet">{escape(section.legend)}</p>')
    if section.picture:
        parts.append(_figure(section.picture))
    if section.notes:
        lines = "\n".join(f"<li{_alarm(note)}>{escape(note)}</li>" for note in section.notes)
        parts.append(f"<ul>\n{lines}\n</ul>")
    if section.code:
        parts.append(f"<pre><code>{escape(chr(10).join(section.code))}</code></pre>")
    inside = "\n".join(parts)
    if section.folded:
        return f"<details>\n<summary>{escape(section.title)}</summary>\n{inside}\n</details>"
    title = f"<h2>{escape(section.title)}</h2>\n" if section.title else ""
    return f"<section>\n{title}{inside}\n</section>"


def _alarm(note: str) -> str:
    return ' class="alarm"' if note.startswith(ALARMS) else ""


def _table(table: Table, label: str) -> str:
    """With the columns of words first, so that a phone shows the verdicts."""
    order = sorted(range(len(table.header)), key=lambda i: table.header[i] not in table.left)
    cells = [[row[i] for i in order] for row in table.rows]
    return html_table([table.header[i] for i in order], cells, table.left, label=label, marks=table.marks)


def _figure(picture: Picture) -> str:
    """The panels side by side, as many as there is room for."""
    sets = [("panels wide" if picture.narrow else "panels", picture.panels)]
    if picture.narrow:
        sets.append(("panels narrow", picture.narrow))
    drawn = []
    for kind, figures in sets:
        least = min(figure.get_figwidth() for figure in figures) * 86  # pixels; an inch has 96
        fit = "1fr" if len(figures) == 1 else f"repeat(auto-fill, minmax(min(100%, {least:.0f}px), 1fr))"
        names = [f"{picture.name} {kind} {i}" for i in range(len(figures))]
        # One of several panels is not described by itself: the first has the words of all.
        inside = "\n".join(
            inline(figure, name, picture.alt if i == 0 else "")
            for i, (figure, name) in enumerate(zip(figures, names, strict=True))
        )
        drawn.append(f'<div class="{kind}" style="grid-template-columns: {fit}">\n{inside}\n</div>')
    return "\n".join(["<figure>", *drawn, f"<figcaption>{escape(picture.caption)}</figcaption>", "</figure>"])


def inline(figure: "Figure", name: str, alt: str) -> str:
    """A figure as an <svg> of the page: in its type and its colours, as wide as there is room and no wider than drawn.

    name: of this figure alone, for what refers to parts of it. alt: what it shows; empty for what is described elsewhere.
    """
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    ET.register_namespace("", SVG)
    root = ET.fromstring(text.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{{{SVG}}}metadata":
                parent.remove(child)
    used = set(re.findall(r"#([\w-]+)", " ".join(" ".join(e.attrib.values()) for e in root.iter())))
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)  # else the same in every figure
        if link := element.attrib.pop(f"{{{LINK}}}href", None):
            element.set("href", link)
        if style := element.get("style"):
            element.set("style", _style(style))
    width = float(root.get("width", "0pt").removesuffix("pt"))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("style", f"max-width: {width * 4 / 3:.0f}px")
    if alt:
        root.set("role", "img")
        root.set("aria-label", alt)
    else:
        root.set("aria-hidden", "true")
    return ET.tostring(root, encoding="unicode")


def _style(style: str) -> str:
    style = re.sub(r"#[0-9a-f]{6}", lambda m: f"var(--{c})" if (c := COLORS.get(m[0])) else m[0], style)
    return re.sub(r"(font: [^';]*?)'[^;]*", r"\1sans-serif", style)
