"""
A measured scan
===============

A sinogram of an electron microscope ships with the package. Left: the data, one column for each tilt. Right: the
slice.
"""

import matplotlib.pyplot as plt

import pnp_lip
from pnp_lip.operators import demo_sinogram

scan = demo_sinogram()
y, angles = scan.y[0, 0, :, ::3], scan.angles[::3]  # every third tilt, to be quick
found = pnp_lip.reconstruct(y, angles, size=96, sigma=0.03)
print(found.result.guarantee.title)
images = {"sinogram": y / y.max(), "slice": found.image / found.image.max()}

fig, axes = plt.subplots(1, len(images), figsize=(3 * len(images), 3.3), layout="constrained")
for axis, (title, image) in zip(axes, images.items(), strict=True):
    axis.imshow(image, cmap="gray", vmin=0, vmax=1, aspect="auto")
    axis.set(title=title, xticks=[], yticks=[])
