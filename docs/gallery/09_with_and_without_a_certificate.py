"""
With and without a certificate
==============================

The same network with its output amplified by a tenth is expansive. A solver refuses it. Run in any case, its
residual does not go to zero, and the result says why.
"""

import matplotlib.pyplot as plt
import torch
from deepinv.models import Denoiser
from skimage import data

from pnp_lip import load_pretrained
from pnp_lip.operators import Blur, gaussian_psf
from pnp_lip.solvers import ForwardBackward

tiny = load_pretrained("tiny")


class Amplified(Denoiser):
    def forward(self, x, sigma=None):
        return 1.1 * tiny(x, sigma)


truth = torch.tensor(data.camera()[100:164, 180:244] / 255).float()[None, None]
physics = Blur(gaussian_psf(1.6), (1, 64, 64))
fig, axis = plt.subplots(figsize=(5, 4), layout="constrained")
for denoiser in (tiny, Amplified()):
    result = ForwardBackward(denoiser, sigma=0.02, tol=1e-6).solve(physics(truth), physics, guarantee="report", max_iter=100)
    print(result.status, result.guarantee.title)
    axis.semilogy(result.history.residual, label=type(denoiser).__name__)
axis.set(xlabel="iteration", ylabel="residual")
axis.legend()
