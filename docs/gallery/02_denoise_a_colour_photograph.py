"""
Denoise a colour photograph
===========================

``denoise`` takes arrays of any common shape and type, and returns the same shape and type. The noise level is a
fraction of white.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import pnp_lip

truth = data.astronaut()[40:136, 170:266]  # (96, 96, 3), bytes
noisy = truth + 255 * 0.1 * np.random.default_rng(0).normal(size=truth.shape)
noisy = noisy.clip(0, 255).astype(np.uint8)

clean = pnp_lip.denoise(noisy, noise=0.1)
print(clean.image.dtype, clean.image.shape)
images = {"truth": truth, "noisy": noisy, "denoised": clean.image}

fig, axes = plt.subplots(1, len(images), figsize=(3 * len(images), 3.3), layout="constrained")
for axis, (title, image) in zip(axes, images.items(), strict=True):
    axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
