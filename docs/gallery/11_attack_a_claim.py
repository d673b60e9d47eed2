"""
Attack a claim
==============

A median filter is a denoiser, too. ``attack`` searches for two images that it drives apart: proof that it is not
nonexpansive. No certified denoiser has such a pair. Below: how the two images differ, before and after the filter.
"""

import matplotlib.pyplot as plt
import torch
from deepinv.models import MedianFilter
from skimage import data

from pnp_lip import attack, load_pretrained

x = torch.tensor(data.camera()[100:124, 180:204] / 255).float()[None, None]
certified = attack(load_pretrained("tiny"), x, sigma=0.05, steps=2)
pair = attack(MedianFilter(), x, steps=4)
print(f"tiny: {certified.ratio:.3f}, median filter: {pair.ratio:.3f}")

before, after = (pair.y - pair.x)[0, 0], (pair.dy - pair.dx)[0, 0]
size = 2 * float(after.abs().max())
images = {"an image": pair.x[0, 0], "difference before": 0.5 + before / size, "after": 0.5 + after / size}

fig, axes = plt.subplots(1, len(images), figsize=(3 * len(images), 3.3), layout="constrained")
for axis, (title, image) in zip(axes, images.items(), strict=True):
    axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
