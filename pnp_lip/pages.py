"""Generated tables inside written pages."""

from __future__ import annotations

from pathlib import Path

from pnp_lip.errors import InputError
from pnp_lip.images import write_atomically

__all__ = ["insert_table"]


def insert_table(page: Path, name: str, table: str) -> None:
    """Replace what stands between a page's markers ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.

    Raises InputError when the page does not have each of them once, in this order.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    head, _, rest = text.partition(begin)
    if text.count(begin) != 1 or rest.count(end) != 1:
        raise InputError(f"{page}: expected the markers {begin} and {end}, in this order; add them to the page.")
    with write_atomically(page) as temporary:
        temporary.write_text(f"{head}{begin}\n{table}{end}{rest.partition(end)[2]}", encoding="utf-8")
