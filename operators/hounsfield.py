"""Hounsfield units and linear attenuation."""

from torch import Tensor

from pnp_lip.operators.certified_physics import require_positive

__all__ = ["WATER_ATTENUATION", "attenuation_to_hounsfield", "hounsfield_to_attenuation"]

WATER_ATTENUATION = 0.0192  # per millimetre, at 70 keV (NIST XCOM: 0.1929 cm²/g)


def hounsfield_to_attenuation(hu: Tensor, *, water: float = WATER_ATTENUATION) -> Tensor:
    """μ = max(0, 1 + HU/1000) μ_water, in the unit of ``water`` (default 1/mm); below −1000 HU there is nothing left.

    >>> import torch
    >>> hounsfield_to_attenuation(torch.tensor([-1000.0, 0.0]), water=0.02).tolist() == [0.0, torch.tensor(0.02).item()]
    True
    """
    require_positive(water=water)
    return (1 + hu / 1000).clamp_min(0) * water


def attenuation_to_hounsfield(mu: Tensor, *, water: float = WATER_ATTENUATION) -> Tensor:
    """HU = 1000 (μ/μ_water − 1)."""
    require_positive(water=water)
    return 1000 * (mu / water - 1)
