"""
How fast it converges
=====================

A scheme iterates the same map in its own way. The residual says how far an image is from being a fixed point.
"""

import matplotlib.pyplot as plt
import torch
from skimage import data

from pnp_lip import load_pretrained
from pnp_lip.operators import Blur, gaussian_psf
from pnp_lip.solvers import Anderson, ForwardBackward, Halpern, KrasnoselskiiMann

truth = torch.tensor(data.camera()[100:164, 180:244] / 255).float()[None, None]
physics = Blur(gaussian_psf(1.6), (1, 64, 64))
y = physics(truth) + 0.01 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))

fig, axis = plt.subplots(figsize=(5, 4), layout="constrained")
for scheme in (KrasnoselskiiMann(), Halpern(), Anderson()):
    solver = ForwardBackward(load_pretrained("tiny"), sigma=0.02, box=(0, 1), scheme=scheme, tol=1e-5)
    result = solver.solve(y, physics, max_iter=100)
    axis.semilogy(result.history.relative, label=type(scheme).__name__)
axis.set(xlabel="iteration", ylabel="relative residual")
axis.legend()
