"""A potential as a prior of deepinv: value, gradient and prox, for deepinv's own algorithms."""

from typing import Any

from deepinv.optim.prior import Prior
from torch import Tensor

from pnp_lip.denoisers.gradient_flow_denoiser import Sigma
from pnp_lip.errors import InputError
from pnp_lip.fingerprint import recognise
from pnp_lip.potentials import RidgePotential
from pnp_lip.solvers.hypothesis import check_positive
from pnp_lip.solvers.proximal_denoiser import ProximalDenoiser

__all__ = ["PotentialPrior"]


class PotentialPrior(Prior):  # type: ignore[misc]
    """R_σ as an explicit prior of deepinv: ``fn`` = R_σ(x), ``grad`` = ∇R_σ(x), ``prox`` = prox_γR_σ(x) to ``accuracy``.

    The prox is one map where γρ < 1, γ deepinv's step times its λ, and raises CertificateError elsewhere. deepinv's loops
    take any step and prove nothing; ``Variational`` minimises the same objective with a theorem.

    σ, deepinv's ``g_param``, is a noise level on the scale of [0, 1], None for the potential's own.

    >>> import torch
    >>> prior = PotentialPrior(RidgePotential(filters=2, kernel_size=3))
    >>> prior.fn(torch.zeros(1, 1, 8, 8), 0.1)
    tensor([0.])
    """

    def __init__(self, potential: RidgePotential, *, accuracy: float = 1e-4) -> None:
        super().__init__()
        check_positive("accuracy", accuracy)
        self.explicit_prior, self.potential, self.accuracy = True, potential, accuracy

    def fn(self, x: Tensor, sigma: Sigma = None, *args: Any, **kwargs: Any) -> Tensor:
        """R_σ(x), one number per image, in the dtype of x."""
        value: Tensor = self.potential(x, sigma)
        return value.to(x)

    def grad(self, x: Tensor, sigma: Sigma = None, *args: Any, **kwargs: Any) -> Tensor:
        """∇R_σ(x)."""
        return self.potential.grad(x, sigma)

    def prox(self, x: Tensor, sigma: Sigma = None, *args: Any, gamma: float | Tensor = 1.0, **kwargs: Any) -> Tensor:
        """argmin_z ½‖z − x‖² + γR_σ(z)."""
        step = gamma.reshape(-1).tolist() if isinstance(gamma, Tensor) else [float(gamma)]
        if len(set(step)) != 1:
            raise InputError(f"`gamma` must be one number; got {step}.")
        z: Tensor = ProximalDenoiser(self.potential, accuracy=self.accuracy, weight=step[0])(x, sigma)
        return z


recognise(PotentialPrior)
