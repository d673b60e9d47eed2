"""The averaging that a theorem needs, derived from what was proved."""

from __future__ import annotations

import math

from torch import nn

from pnp_lip.certificates.certify import certify
from pnp_lip.denoisers import RelaxedDenoiser

__all__ = ["firm"]


def firm(denoiser: nn.Module) -> nn.Module:
    """Relax a nonexpansive denoiser by the least amount that makes it firmly nonexpansive.

    (1 − θ) Id + θ D with θ = 1/(2α), rounded down, where D is proved α-averaged (θ = 1/2 when D is only nonexpansive); a D
    that is firmly nonexpansive already is returned as it is.

    Raises CertificateError when D is not certified as nonexpansive. Source: Bauschke & Combettes (2017), Proposition 4.40.
    """
    certificate = certify(denoiser).require_nonexpansive()
    if certificate.firmly_nonexpansive:
        return denoiser
    alpha = 1.0 if certificate.averagedness is None else certificate.averagedness
    return RelaxedDenoiser(denoiser, math.nextafter(math.nextafter(0.5 / alpha, 0.0), 0.0))
