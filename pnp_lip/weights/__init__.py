"""Weights that ship with the package, each with its certificate and model card; see ``pnp_lip.load_pretrained``."""
