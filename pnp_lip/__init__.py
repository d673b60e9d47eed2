"""Plug-and-play image reconstruction with learned denoisers whose convergence is proved."""
