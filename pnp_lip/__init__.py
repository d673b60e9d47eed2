"""Plug-and-play image reconstruction with learned denoisers whose convergence is proved.

The names of ``pnp_lip.public`` are here too. They load on first use, so that ``import pnp_lip`` stays cheap.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from pnp_lip.renamed import renamed

HERE = Path(__file__).parent
BESIDE = ("pnp_lip.benchmarks", "pnp_lip.operators", "pnp_lip.solvers")  # in a checkout these folders stand beside HERE


class Checkout:
    """Finds the three folders beside this one; Python asks it after all other finders.

    An installed package holds them, so that nothing is looked for here. ``__path__`` stays as it is: with the checkout's root
    in it, ``pnp_lip.tests`` and ``pnp_lip.pnp_lip`` would be importable.
    """

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Where one of the three is; None for all other names."""
        return PathFinder.find_spec(name, [str(HERE.parent)]) if name in BESIDE else None


if not (HERE / "operators").is_dir():
    sys.meta_path.append(Checkout)

if TYPE_CHECKING:
    from pnp_lip.public import *  # noqa: F403
    from pnp_lip.public import __all__ as __all__
else:
    old_name = renamed(
        __name__,
        {
            "certified_radius": "pnp_lip.theory:certified_radius",
            "exact": "pnp_lip.theory:",
            "experiments": "pnp_lip.theory.experiments:",
            "networks": "pnp_lip.theory:",
        },
    )

    def __getattr__(name: str) -> object:
        public = vars(importlib.import_module("pnp_lip.public"))
        if name == "__all__" or name in public.get("__all__", ()):
            return public[name]
        return old_name(name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
