"""Certificates: what was proved of a map, by which argument, for which weights."""

from pnp_lip.certificates import plain  # noqa: F401 (registers its rules)
from pnp_lip.certificates.calculus import MapBound
from pnp_lip.certificates.certificate import Certificate, LayerCertificate
from pnp_lip.certificates.certify import Proof, certify, describe, hash_weights, rule
from pnp_lip.certificates.enforce import Change, enforce, firm
from pnp_lip.certificates.networks import output_lipschitz_upper
from pnp_lip.certificates.radius import certified_radius

__all__ = [
    "Certificate",
    "Change",
    "LayerCertificate",
    "MapBound",
    "Proof",
    "certified_radius",
    "certify",
    "describe",
    "enforce",
    "firm",
    "hash_weights",
    "output_lipschitz_upper",
    "rule",
]
