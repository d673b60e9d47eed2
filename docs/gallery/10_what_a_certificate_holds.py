"""
What a certificate holds
========================

``certify`` bounds the norm of each layer from above and from below. A layer with the step τ is nonexpansive if
τ‖W‖² is at most 2, the line.
"""

import matplotlib.pyplot as plt

from pnp_lip import certify, load_pretrained

certificate = certify(load_pretrained("grey"))
print(certificate.bound)
layers = [layer for layer in certificate.layers if layer.tau]
upper = [layer.tau * layer.norm.upper**2 for layer in layers]

fig, axis = plt.subplots(figsize=(5, 4), layout="constrained")
axis.bar(range(1, len(layers) + 1), upper, label="proved")
axis.axhline(2, color="black", label="limit")
axis.set(xlabel="layer", ylabel="τ‖W‖²", ylim=(0, 2.4))
axis.legend()
