"""
Tomography from few views
=========================

A parallel beam looks at the Shepp-Logan phantom from 40 directions. Filtered back-projection (FBP) leaves streaks.
``reconstruct`` minimises an objective, and names the theorem.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from skimage import data, transform

import pnp_lip
from pnp_lip.operators import ParallelBeamTomography

angles = np.arange(0, 180, 4.5)
truth = torch.tensor(transform.resize(data.shepp_logan_phantom(), (64, 64))).float()
scanner = ParallelBeamTomography(angles, (1, 64, 64))
sinogram = scanner(truth[None, None])
sinogram += 0.01 * sinogram.max() * torch.randn(sinogram.shape, generator=torch.Generator().manual_seed(0))

image = pnp_lip.reconstruct(sinogram[0, 0], angles, size=64, sigma=0.02)
print(image)
images = {"truth": truth, "FBP": scanner.fbp(sinogram)[0, 0], "reconstruction": image.image}

fig, axes = plt.subplots(1, len(images), figsize=(3 * len(images), 3.3), layout="constrained")
for axis, (title, image) in zip(axes, images.items(), strict=True):
    axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
