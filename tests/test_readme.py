"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import torch


def test_python_examples_run_in_order() -> None:
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {"print": lambda *text, **how: None}
    torch.manual_seed(0)
    for block in blocks:
        exec(block, names)
    assert names["result"].status == "converged" and names["result"].guarantee.proved
    assert names["x_hat"].shape == names["x"].shape
