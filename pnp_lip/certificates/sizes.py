"""The sizes of images on their way through a composition, and for which of them each layer meets one that it was proved for."""

import dataclasses
import math
from collections.abc import Sequence

from pnp_lip.errors import CertificateError
from pnp_lip.spectral.polyphase import Pair

__all__ = ["SAME", "UNKNOWN", "Axis", "image_sizes"]

MAX_PERIOD = 10_000  # rows after which the question repeats; five strides of two ask for 32


@dataclasses.dataclass(frozen=True)
class Axis:
    """How a map sees n rows, or columns: it takes n ≥ ``least``, a multiple of ``divisor``, and gives ⌊(up·n + offset)/down⌋.

    ``up`` is 0 where the size of what it gives is not known.
    """

    up: int = 1
    down: int = 1
    offset: int = 0
    least: int = 1
    divisor: int = 1

    @property
    def asks(self) -> bool:
        """Whether it takes some sizes only."""
        return self.least > 1 or self.divisor > 1


SAME, UNKNOWN = (Axis(), Axis()), (Axis(up=0), Axis(up=0))  # rows and columns


def image_sizes(maps: Sequence[tuple[Axis, Axis]]) -> tuple[Pair, Pair]:
    """The smallest image and the divisors of its sides for which every map of a composition takes what it meets.

    Let n_0 = n and n_{i+1} = ⌊(u_i n_i + o_i)/d_i⌋ with u_i, d_i ≥ 1. *Least sizes.* n_i does not fall as n grows, and
    n_{i+1} ≥ m means n_i ≥ ⌈(d_i m − o_i)/u_i⌉, so the least n follows backwards. *Divisors.* Let T_i be a multiple of the
    i-th divisor for which u_i T_i/d_i is a multiple of T_{i+1}. Then n_i + T_i gives n_{i+1} + u_i T_i/d_i, as integers
    leave the floor alone; so by induction from behind, whether all divisors divide depends on n_0 modulo T_0 only. The
    multiples of d are, modulo T_0, those of gcd(d, T_0): the least d that serves divides T_0, and one period decides it.

    Raises CertificateError where a size that is asked for is not known, or where no divisor of the sides ensures it.

    >>> image_sizes([(Axis(down=2), Axis()), (Axis(least=6, divisor=2), Axis())])
    ((12, 1), (4, 1))
    """
    (rows, m), (columns, n) = (along([axes[k] for axes in maps]) for k in (0, 1))
    return (rows, columns), (m, n)


def along(axes: list[Axis]) -> Pair:
    """The least size along one axis, and its divisor."""
    while axes and not axes[-1].asks:
        axes.pop()
    if any(axis.up == 0 for axis in axes[:-1]):
        raise CertificateError(
            "a layer's bound holds for some image sizes only, but the layer before it gives an image whose size is not known."
        )
    least = period = 1
    for i, axis in reversed(list(enumerate(axes))):
        if i == len(axes) - 1:
            least, period = axis.least, axis.divisor
            continue
        least = max(axis.least, -((axis.offset - axis.down * least) // axis.up))
        step = axis.down * period
        period = math.lcm(axis.divisor, step // math.gcd(step, axis.up))
    if period > MAX_PERIOD:
        raise CertificateError(f"which image sizes the layers' bounds hold for repeats after {period} pixels only: too many.")
    for d in (d for d in range(1, period + 1) if period % d == 0):
        if all(divides(axes, n) for n in range(0, period, d)):
            return least, d
    raise CertificateError("the layers' sizes and strides fit no image whose sides are multiples of some number.")


def divides(axes: Sequence[Axis], n: int) -> bool:
    """Whether each axis' divisor divides what it meets when the first meets n."""
    for axis in axes:
        if n % axis.divisor:
            return False
        n = (axis.up * n + axis.offset) // axis.down
    return True
