"""
Our prior inside deepinv
========================

The denoiser is a deepinv denoiser. With a step below 2/‖A‖², deepinv's own algorithm converges with it.
"""

import matplotlib.pyplot as plt
import torch
from deepinv.optim import L2, PGD, PnP
from skimage import data

from pnp_lip import load_pretrained
from pnp_lip.operators import Blur, gaussian_psf

truth = torch.tensor(data.camera()[100:196, 180:276] / 255).float()[None, None]
physics = Blur(gaussian_psf(1.6), (1, 96, 96))
y = physics(truth) + 0.01 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))

step = 1.9 / physics.norm_upper**2  # norm_upper is a certified upper bound
prior = PnP(denoiser=load_pretrained("tiny"))
pgd = PGD(prior=prior, data_fidelity=L2(), stepsize=step, sigma_denoiser=0.01, max_iter=50)
images = {"truth": truth[0, 0], "data": y[0, 0], "PGD": pgd(y, physics)[0, 0]}

fig, axes = plt.subplots(1, len(images), figsize=(3 * len(images), 3.3), layout="constrained")
for axis, (title, image) in zip(axes, images.items(), strict=True):
    axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
