"""The rival that our pipeline trains, and its penalty."""

from __future__ import annotations

import torch
from torch import nn

from pnp_lip.benchmarks.networks import load_rival, save_rival
from pnp_lip.benchmarks.rivals import CONFIG, firmness_penalty, rival
from pnp_lip.command_line.main import main
from pnp_lip.training import PatchSettings, TrainingSettings, train


class Scaled(nn.Module):
    """x ↦ c x, whose reflection 2D − Id has the norm |2c − 1|."""

    def __init__(self, c: float) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c))

    def forward(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self.c * x


def test_the_penalty_is_zero_for_a_firm_map_and_pushes_an_expansive_one_back():
    torch.manual_seed(0)
    y = torch.rand(2, 1, 8, 8)
    assert float(firmness_penalty(1.0)(Scaled(0.9), y, 0.1)) == 0
    expansive = Scaled(1.5)
    value = firmness_penalty(2.0)(expansive, y, 0.1)
    torch.testing.assert_close(value, torch.tensor(2.0 * (2.0 - 0.98)), rtol=1e-3, atol=0)
    value.backward()
    assert float(expansive.c.grad) > 0


def test_a_rival_trains_by_our_pipeline_and_is_read_back(tmp_path):
    images = [torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    settings = TrainingSettings(steps=2, patches=PatchSettings(batch=4, size=16), validate_every=2)
    network = train(rival(), images[:2], images[2:], tmp_path, settings, penalty=firmness_penalty(0.1))
    save_rival(network, tmp_path / "rival.pt", kind="DnCNN", config=CONFIG)
    x = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(load_rival(tmp_path / "rival.pt")(x, 0.1), network(x, 0.1))
    assert not torch.equal(network.in_conv.weight, rival().in_conv.weight)


def test_the_command_needs_photographs(tmp_path, capsys):
    assert main(["bench", "rival", "--out", str(tmp_path)]) == 2
    assert "--images" in capsys.readouterr().err
