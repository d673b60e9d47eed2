"""Which norms are known: a rule for each exact type; and what is kept of an operator between calls, outside of it."""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

from deepinv.physics import LinearPhysics

from pnp_lip.errors import CertificateError
from pnp_lip.fingerprint import Rules, fingerprint, require_unmodified
from pnp_lip.snapshot import Snapshot, lasting
from pnp_lip.spectral import NormBound

__all__ = ["Rule", "Size", "examined_bound", "is_known", "kept", "norm_rule", "own_norm_rule", "rule_of", "stated_norm"]

Size = tuple[int, ...] | None  # of one image, if known
Rule = Callable[[LinearPhysics, Size], NormBound]
R = TypeVar("R", bound=Rule)
T = TypeVar("T")

RULES: Rules[Rule] = Rules()


@dataclasses.dataclass
class Kept:
    """Results for tensors as in ``snapshot``; a ``bound`` proved under the fingerprint ``mark``, with what that took."""

    snapshot: Snapshot
    results: dict[tuple[object, ...], object] = dataclasses.field(default_factory=dict)
    mark: tuple[Hashable, ...] = ()
    bound: NormBound | None = None
    proved: dict[tuple[object, ...], object] = dataclasses.field(default_factory=dict)


KEPT: WeakKeyDictionary[LinearPhysics, Kept] = WeakKeyDictionary()


def norm_rule(*types: type) -> Callable[[R], R]:
    """Register ``rule(physics, img_size)`` → ``NormBound`` as the proof of ‖A‖ for physics of exactly these types.

    A subclass may compute something else and needs a rule of its own. You vouch for a rule of yours: ``stated_norm``
    is true for its types, compositions and stacks.
    """

    def register(rule: R) -> R:
        RULES.add(types, rule)
        return rule

    return register


def own_norm_rule(*types: type) -> Callable[[R], R]:
    """Register a rule of this package, for which no user has to vouch."""

    def register(rule: R) -> R:
        RULES.add(types, rule, own=True)
        return rule

    return register


def stated_norm(physics: LinearPhysics) -> bool:
    """Whether the norm of ``physics``, or of a part of it, rests on a rule that is not of this package."""
    kind = type(physics)
    return (kind in RULES and not RULES.vouched(kind)) or any(map(stated_norm, getattr(physics, "physics_list", ())))


def is_known(physics: object) -> bool:
    """Whether what A computes is known from its class, and that of its parts, by rules of this package, and unmodified."""
    if not isinstance(physics, LinearPhysics) or type(physics) not in RULES or stated_norm(physics):
        return False
    try:
        require_unmodified(physics)
    except CertificateError:
        return False
    return all(map(is_known, getattr(physics, "physics_list", ())))


def rule_of(physics: LinearPhysics) -> Rule | None:
    """The rule of the exact type of ``physics``, if any; CertificateError if the object or its class was patched."""
    rule = RULES.get(type(physics))
    if rule is not None:
        require_unmodified(physics)
    return rule


def examined_bound(physics: LinearPhysics, size: Size) -> NormBound:
    """The bound by rule, kept for one fingerprint; where that has changed, all that is kept of the operator is dropped.

    The noise model is no part of A.
    """
    rule = rule_of(physics)
    if rule is None:
        name, base = type(physics).__name__, type(physics).__mro__[1].__name__
        raise CertificateError(
            f"no rule is registered for {name}, a subclass of {base}, which may compute something else than {base}. "
            f"Register one that you vouch for: @norm_rule({name})."
        )
    parts = fingerprint(physics)
    mark = (rule, *(part for part in parts if isinstance(part, tuple) and part[0].partition(".")[0] != "noise_model"))
    found = store(physics)
    if found.bound is None or found.mark != mark:
        found = KEPT[physics] = Kept(Snapshot(physics.tensors))
        found.bound, found.mark = rule(physics, size), mark
        found.proved = dict(found.results)
    found.results = dict(found.proved)  # other results may be of a state in between that left no trace
    return found.bound


def store(physics: LinearPhysics) -> Kept:
    """What is kept for the tensors as they are."""
    found = KEPT.get(physics)
    if found is None or not found.snapshot.holds(physics.tensors):
        found = KEPT[physics] = Kept(Snapshot(physics.tensors))
    return found


def kept(compute: Callable[..., T]) -> Callable[..., T]:
    """Make a method of an operator keep its results until a tensor that defines A is seen to change."""

    @functools.wraps(compute)
    def method(self: LinearPhysics, *arguments: object) -> T:
        results, key = store(self).results, (compute.__qualname__, *arguments)
        if key not in results:
            with lasting():
                results[key] = compute(self, *arguments)
        return cast(T, results[key])

    return method
