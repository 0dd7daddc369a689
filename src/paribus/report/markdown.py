"""A report as a page of Markdown, beside its pictures. No torch, no lightning."""

from collections.abc import Sequence

from paribus.report.sections import Section
from paribus.tables import Link, markdown_table


def markdown(title: str, source: str | None, sections: Sequence[Section]) -> str:
    parts = [f"# {title}"]
    if source:
        parts.append(f"Source of the question: {source}")
    for section in sections:
        if not section.folded:
            parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    parts = [f"## {section.title}"] if section.title else []
    if section.sentences:
        parts.append(" ".join(section.sentences))
    if section.table:
        cells = [
            [cell.text if isinstance(cell, Link) else cell for cell in row] for row in section.table.rows
        ]
        parts.append(markdown_table(section.table.header, cells, section.table.left))
    if section.legend:
        parts.append(section.legend)
    if section.picture:
        parts.append(f"![{section.picture.alt}]({section.picture.name}.svg)")
    if section.notes:
        parts.append("\n".join(f"- {note}" for note in section.notes))
    if section.code:
        parts.append("\n".join(["```sh", *section.code, "```"]))
    return parts
