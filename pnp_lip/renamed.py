"""Names that have changed: the old one still works for one version, with a warning."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping

__all__ = ["renamed"]


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], object]:
    """A module's ``__getattr__`` that answers each old name with the new one and warns.

    The new one is "name", "other.module:name", or "other.module:" for a whole module.
    """

    def __getattr__(old: str) -> object:  # noqa: N807 (what Python calls it)
        if old not in names:
            raise AttributeError(f"module {module!r} has no attribute {old!r}")
        home, _, new = names[old].rpartition(":")
        place = ".".join(filter(None, (home or module, new)))
        warnings.warn(f"{module}.{old} is now {place}.", DeprecationWarning, stacklevel=2)
        found = importlib.import_module(home or module)
        return getattr(found, new) if new else found

    return __getattr__
