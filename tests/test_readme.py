"""The README's Python runs as it stands, and its commands are those that `.ci/run` runs."""

from __future__ import annotations

import numpy as np
import readme
import torch


def test_python_examples_run_in_order() -> None:
    blocks = readme.python()
    assert len(blocks) == 3
    names: dict[str, object] = {"print": lambda *text, **how: None}
    torch.manual_seed(0)
    np.random.seed(0)
    for block in blocks:
        exec(block, names)
    assert names["sharp"].result.status == "converged" and names["sharp"].image.shape == names["clean"].image.shape == (96, 96)
    assert names["image"].shape == (96, 96)
    assert names["result"].status == "converged" and names["result"].guarantee.proved
    assert names["x_hat"].shape == names["x"].shape


def test_commands_are_found() -> None:
    assert readme.shell("## Start").rstrip().endswith("pnp-lip demo")
    assert readme.shell("Run the tests").rstrip().endswith("pytest")
