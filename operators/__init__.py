"""Forward models with exact adjoints, certified norms and prox maps of certified accuracy."""

from pnp_lip.operators.blur import Blur
from pnp_lip.operators.certified_physics import CertifiedPhysics
from pnp_lip.operators.certify_norm import certify_norm
from pnp_lip.operators.conjugate_gradient import ProxResult
from pnp_lip.operators.kernels import box_kernel, disk_kernel, gaussian_kernel, load_kernel, motion_kernel

__all__ = [
    "Blur",
    "CertifiedPhysics",
    "ProxResult",
    "box_kernel",
    "certify_norm",
    "disk_kernel",
    "gaussian_kernel",
    "load_kernel",
    "motion_kernel",
]
