"""A table as data, as Markdown and as HTML."""

from __future__ import annotations

import dataclasses
import html

__all__ = ["Table"]

WRAP = 32  # characters of a cell, above which it is prose and may wrap


@dataclasses.dataclass(frozen=True)
class Table:
    """A title, a note below it, the header and the rows, all text. A table without a header is a paragraph.

    >>> print(Table("t", ("a", "b"), (("1", "2"),)).markdown())
    **t**
    <BLANKLINE>
    | a | b |
    |---|---|
    | 1 | 2 |
    <BLANKLINE>
    """

    title: str = ""
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    note: str = ""

    def markdown(self) -> str:
        """The table in Markdown, its title in bold above it."""
        lines = [f"**{self.title}**", ""] if self.title else []
        lines += [self.note, ""] if self.note else []
        if self.header:
            lines += [f"| {' | '.join(self.header)} |", "|---" * len(self.header) + "|"]
            lines += [f"| {' | '.join(cell.replace('|', '¦') for cell in row)} |" for row in self.rows]
        return "\n".join([*lines, ""])

    def html(self) -> str:
        """The table in HTML, its columns sortable by the page's script."""
        title = f"<h3>{html.escape(self.title)}</h3>" if self.title else ""
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        if not self.header:
            return title + note
        head = "".join(f'<th scope="col"><button>{html.escape(cell)}</button></th>' for cell in self.header)
        body = "".join(f"<tr>{''.join(map(cell_html, row, range(len(row))))}</tr>" for row in self.rows)
        return (
            f'{title}{note}<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )


def cell_html(text: str, column: int) -> str:
    """A cell; the first column heads its row, and long text may wrap."""
    tag = 'th scope="row"' if column == 0 else "td"
    kind = ' class="text"' if len(text) > WRAP else ""
    return f"<{tag}{kind}>{html.escape(text)}</{tag[:2]}>"
