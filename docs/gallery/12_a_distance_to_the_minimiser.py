"""
A proved distance to the minimiser
==================================

Denoising with the potential ``ridge`` has one minimiser. Each result says how far it is from it at most. The bound
is true for every image that a run ends with, early or late.
"""

import matplotlib.pyplot as plt
import torch
from deepinv.physics import Denoising
from skimage import data

from pnp_lip import Variational, load_pretrained

truth = torch.tensor(data.camera()[100:164, 180:244] / 255).float()[None, None]
noisy = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
ridge, bounds = load_pretrained("ridge"), {}
for steps in (5, 10, 20, 40, 80):
    result = Variational(ridge, sigma=0.1, box=None, tol=1e-7).solve(noisy, Denoising(), max_iter=steps)
    bounds[result.iterations] = result.distance_upper[0]

fig, axis = plt.subplots(figsize=(5, 4), layout="constrained")
axis.semilogy(bounds.keys(), bounds.values(), "o-")
axis.set(xlabel="iterations", ylabel="distance to the minimiser, at most")
