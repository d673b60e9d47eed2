"""Attacks made by hand, by an adversary with Python who edits no file of the package.

``python tests/attacks_by_hand.py [part of a name]`` runs them and prints a table and what did not hold.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from attacks import Outcome, Verdict, at_most, call, images, judged, matrix_of, ratio_reached, refusal, spectral_norm, table
from torch import nn

from pnp_lip import certify
from pnp_lip.operators import certify_norm

SHAPE = (1, 8, 8)


@dataclasses.dataclass(frozen=True)
class Attack:
    """``kind`` groups attacks by what they go around; ``new``: not in the list of faults that opened the question."""

    kind: str
    name: str
    new: bool
    run: Callable[[], Outcome]


REGISTRY: dict[str, Attack] = {}


def attack(kind: str, *, new: bool = False) -> Callable[[Callable[[], Outcome]], Callable[[], Outcome]]:
    """Register a function that returns an outcome."""

    def register(function: Callable[[], Outcome]) -> Callable[[], Outcome]:
        name = function.__name__
        assert name not in REGISTRY, f"two attacks are called {name}"
        REGISTRY[name] = Attack(kind, name, new, function)
        return function

    return register


def attacker(
    judge: Callable[[Callable[[], Any], str], Outcome],
) -> Callable[..., Callable[[Callable[[], Any]], Callable[[], Any]]]:
    """A decorator like ``attack`` for functions that make what ``judge(function, name)`` then asks about."""

    def decorator(kind: str, *, new: bool = False) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
        def register(function: Callable[[], Any]) -> Callable[[], Any]:
            def run() -> Outcome:
                return judge(function, function.__name__)

            run.__name__ = function.__name__
            attack(kind, new=new)(run)
            return function

        return register

    return decorator


def judge_map(make: Callable[[], Any], name: str) -> Outcome:
    """``make`` returns a module, or (module, shape of its images[, dtype]): its certified constant against slopes reached."""
    made: list[Any] = []

    def claim() -> float:
        made.append(make())
        return certify(parts(made[0])[0]).lipschitz_upper

    def reached() -> float:
        module, shape, dtype = parts(made[0])
        return ratio_reached(call(module), images(shape, dtype)[: 1 if max(shape) > 30 else 3])

    return at_most(claim, reached, slack=2e-3, what=name)


def parts(made: Any) -> tuple[nn.Module, tuple[int, ...], torch.dtype]:
    """What ``make`` returned, with the shape and the dtype that it left out."""
    module, *rest = made if isinstance(made, tuple) else (made,)
    return module, rest[0] if rest else SHAPE, rest[1] if len(rest) > 1 else torch.float32


def judge_norm(make: Callable[[], Any], name: str) -> Outcome:
    """``make`` returns a physics, or (physics, shape[, dtype]): its certified norm against the matrix of A as executed."""
    made: list[Any] = []

    def claim() -> float:
        made.append(make())
        physics, shape, _ = parts(made[0])
        return certify_norm(physics, img_size=shape).upper

    def reached() -> float:
        physics, shape, dtype = parts(made[0])
        return spectral_norm(matrix_of(physics.A, shape, dtype))

    return at_most(claim, reached, slack=1e-5, what=name)


on_map, on_norm = attacker(judge_map), attacker(judge_norm)
on_run = attacker(lambda make, name: judged(make, lie=name))  # ``make`` runs a lie and returns a Result or a Guarantee


def honest(kind: str, *, new: bool = False) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """A control: ``function`` returns a title, which must be "proved", if only given the user's statement."""

    def register(function: Callable[[], str]) -> Callable[[], str]:
        def run() -> Outcome:
            try:
                title = function()
            except Exception as error:
                return refusal(error, honest=True)
            return Outcome(Verdict.TRUE if title.startswith("proved") else Verdict.HONEST_REFUSED, title, "proved")

        run.__name__ = function.__name__
        attack(kind, new=new)(run)
        return function

    return register


@contextlib.contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """``owner.name`` replaced for a while, as anybody may do."""
    missing, old = name not in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name) if missing else setattr(owner, name, old)


@contextlib.contextmanager
def recoded(function: Any, like: Callable[..., Any]) -> Iterator[None]:
    """The function with the instructions of another one, for a while."""
    old = function.__code__
    function.__code__ = like.__code__
    try:
        yield
    finally:
        function.__code__ = old


class Hiding(dict[str, Any]):
    """A dictionary that does not list one of its keys; Python finds an attribute in it all the same."""

    def __init__(self, values: Any, hidden: str) -> None:
        super().__init__(values)
        self.hidden = hidden

    def items(self) -> Any:
        return [(name, value) for name, value in super().items() if name != self.hidden]

    def __iter__(self) -> Any:
        return (name for name in super().__iter__() if name != self.hidden)

    keys = __iter__


def under(context: Callable[[], Any], judge: Callable[[Callable[[], Any], str], Outcome], make: Callable[[], Any]) -> Outcome:
    """``judge`` inside of a context that both the claim and the truth see."""
    with context():
        return judge(make, getattr(make, "__name__", ""))


@functools.cache
def load() -> dict[str, Attack]:
    """All attacks, of all files."""
    for part in ("files", "maps", "operators", "runs"):
        importlib.import_module(f"attacks_on_{part}")

    return dict(sorted(REGISTRY.items(), key=lambda item: item[1].kind))


def run(name: str) -> Outcome:
    """One attack by its name; what it leaves behind in torch's settings is put back."""
    before = torch.get_default_dtype(), torch.get_num_threads(), torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load()[name].run()
    finally:
        torch.set_default_dtype(before[0])
        torch.set_num_threads(before[1])
        torch.random.set_rng_state(before[2])
        torch.set_flush_denormal(False)


def main(part: str = "") -> None:
    """Run the attacks with ``part`` in their names and print a table and what did not hold."""
    torch.set_num_threads(1)
    rows = []
    for name, entry in load().items():
        if part in name:
            began = time.perf_counter()
            try:
                outcome = run(name)
            except Exception as error:
                outcome = Outcome(Verdict.UNNAMED, f"{type(error).__name__}: {error}", "", "in the attack itself")
            rows.append((entry.kind, outcome, entry.new))
            if (seconds := time.perf_counter() - began) > 2:
                sys.stderr.write(f"{name} took {seconds:.1f} s\n")
            if not outcome.verdict.held or part:
                sys.stderr.write(f"{entry.kind} / {name}: {outcome}\n")
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    sys.modules["attacks_by_hand"] = sys.modules["__main__"]  # one registry
    main(*sys.argv[1:])
