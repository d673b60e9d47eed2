"""
What lies beyond the border
===========================

A photograph ends where its blur does not. ``padding="valid"`` says that nothing is known beyond the border.
"circular" claims that the image goes on at the opposite side, which is wrong for a photograph.
"""

import matplotlib.pyplot as plt
import torch
from skimage import data

import pnp_lip
from pnp_lip.operators import Blur, motion_psf

psf = motion_psf(12, 35)
truth = torch.tensor(data.camera()[100:196, 180:276] / 255).float()
y = Blur(psf, (1, 96, 96), padding="valid")(truth[None, None])
y = y + 0.01 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))

images = {"photograph": y[0, 0]}
for padding in ("valid", "circular"):
    images[padding] = pnp_lip.deblur(y, psf, 0.01, denoiser="tiny", padding=padding).image[0, 0]

fig, axes = plt.subplots(1, len(images), figsize=(3 * len(images), 3.3), layout="constrained")
for axis, (title, image) in zip(axes, images.items(), strict=True):
    axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
