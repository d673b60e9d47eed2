"""Names that have changed: the old one still works for one version, with a warning."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping

__all__ = ["renamed"]


def renamed(module: str, names: Mapping[str, str], *, stacklevel: int = 2) -> Callable[[str], object]:
    """A module's ``__getattr__`` that answers each old name with the new one, "name" or "other.module:name", and warns.

    ``stacklevel`` is that of ``warnings.warn``: 3 where another function stands between this one and the user.
    """

    def __getattr__(old: str) -> object:  # noqa: N807 (what Python calls it)
        if old not in names:
            raise AttributeError(f"module {module!r} has no attribute {old!r}")
        home, _, new = names[old].rpartition(":")
        warnings.warn(f"{module}.{old} is now {home or module}.{new}.", DeprecationWarning, stacklevel=stacklevel)
        return getattr(importlib.import_module(home or module), new)

    return __getattr__
