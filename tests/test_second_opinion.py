"""Ball arithmetic proves what the certifier proves, and nothing below the norm."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from importlib import resources
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pnp_lip import second_opinion
from pnp_lip.certificates import Certificate, certify
from pnp_lip.command_line import main
from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.layers import ReLU, project
from pnp_lip.pretrained import load_pretrained
from pnp_lip.second_opinion import disputed, norm_is_below
from pnp_lip.spectral import norm_bound

SHAPES = [(6, 3, 3, 3), (2, 5, 3, 3), (1, 1, 5, 5), (4, 4, 1, 3), (4, 4, 3, 1), (3, 2, 2, 4), (5, 4, 1, 1), (7, 4), (3, 1, 9, 9)]


@pytest.fixture
def small() -> GradientFlowDenoiser:
    torch.manual_seed(0)
    denoiser = GradientFlowDenoiser(channels=3, hidden_channels=4, kernel_size=3, dilations=(1, 2))
    project(denoiser, limit=0.9)
    return denoiser


def norm_on_the_torus(w: Tensor) -> float:
    """The largest singular value of the symbol over a grid, then by ascent to 1e-12: the truth, from below."""
    kernel = w.reshape(*w.shape[:2], *(w.shape[2:] or (1, 1))).double()
    axes = [torch.arange(k, dtype=torch.float64) for k in kernel.shape[2:]]

    def value(p: Tensor) -> Tensor:
        waves = [torch.exp(-2j * torch.pi * p[:, i : i + 1] * axes[i]) for i in (0, 1)]
        return torch.linalg.matrix_norm(torch.einsum("oiab,pa,pb->poi", kernel.cdouble(), *waves), 2)

    grid = torch.cartesian_prod(*(torch.arange(96, dtype=torch.float64) / 96,) * 2)
    best, width = grid[value(grid).argmax()], 1 / 96
    for _ in range(30):
        near = best + width * torch.cartesian_prod(*(torch.linspace(-1, 1, 9, dtype=torch.float64),) * 2)
        best, width = near[value(near).argmax()], width / 2
    return float(value(best[None])[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_decides_at_the_norm(shape: tuple[int, ...]) -> None:
    """Proved a relative 1e-9 above the norm, refused as little below; for tiny, huge and narrow types of numbers alike."""
    for scale, dtype in ((1.0, torch.float32), (1e-30, torch.float64), (1e200, torch.float64), (1.0, torch.bfloat16)):
        w = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).mul(scale).to(dtype)
        norm = norm_on_the_torus(w.double() / scale) * scale
        assert norm_is_below(w, norm * (1 + 1e-9))
        assert not norm_is_below(w, norm * (1 - 1e-9))
        assert not norm_is_below(w, norm / 2)
        assert norm_is_below(w, norm_bound(w).upper)


def test_a_symbol_of_constant_norm_is_never_proved_below_its_norm() -> None:
    shift = torch.zeros(1, 1, 3, 3)
    shift[0, 0, 2, 1] = 0.5
    assert norm_is_below(shift, 0.5001)
    assert not norm_is_below(shift, 0.5 * (1 - 1e-6))


def test_zero_and_numbers_that_are_none() -> None:
    zero = torch.zeros(2, 1, 3, 3)
    assert norm_is_below(zero, 0.0)
    assert not norm_is_below(zero, -1.0)
    assert not norm_is_below(zero, float("nan"))
    assert not norm_is_below(zero + float("inf"), 1e300)
    assert not norm_is_below(zero + 1, 0.0)


def test_gives_up_when_too_many_cells_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_opinion, "MOST_CELLS", 10)
    w = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    bound = norm_bound(w, rtol=1e-6)
    assert not norm_is_below(w, bound.upper)
    assert norm_is_below(w, 2 * bound.upper)  # the first cells suffice


def test_an_undecided_bound_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dyadic norm claimed exactly: at its maximiser the test is never strict."""
    monkeypatch.setattr(second_opinion, "DEEPEST", 6)
    assert not norm_is_below(torch.full((1, 1, 3, 3), 0.125), 1.125)


@pytest.mark.parametrize("name", ["grey", "colour", "tiny"])
def test_shipped_certificates_are_verified_and_lowered_ones_are_not(name: str) -> None:
    """Each layer by ball arithmetic; a bound 1e-6 below what the layer attains is refused."""
    denoiser = load_pretrained(name)
    assert isinstance(denoiser, GradientFlowDenoiser)
    text = Path(str(resources.files("pnp_lip.weights") / f"{name}.certificate.json")).read_text()
    certificate = Certificate.from_json(text)
    assert disputed(denoiser, certificate) == []
    first = certificate.layers[0]
    lowered = dataclasses.replace(first, norm=dataclasses.replace(first.norm, upper=first.norm.lower * (1 - 1e-6)))
    assert not norm_is_below(denoiser.layers[0].weight, lowered.norm.upper)  # type: ignore[arg-type]


def test_disputes_every_part(small: GradientFlowDenoiser) -> None:
    certificate = certify(small)
    assert disputed(small, certificate) == []
    line, bound = certificate.layers[1], certificate.bound
    assert line.averagedness is not None and bound.averagedness is not None
    lower = dataclasses.replace(line, norm=dataclasses.replace(line.norm, upper=line.norm.lower * (1 - 1e-6)))
    alpha = dataclasses.replace(line, averagedness=line.averagedness * (1 - 1e-12))
    for change, word in (
        ({"layers": (certificate.layers[0], lower)}, "layers.1: ‖W‖"),
        ({"layers": (certificate.layers[0], alpha)}, "layers.1: τU²/2"),
        ({"bound": dataclasses.replace(bound, averagedness=bound.averagedness * Fraction(999, 1000))}, "averagedness"),
        ({"bound": dataclasses.replace(bound, lipschitz=Fraction(99, 100))}, "Lipschitz"),
        ({"bound": dataclasses.replace(bound, proximal=True)}, "proximal"),
        ({"weights": {}}, "other weights"),
    ):
        wrong = disputed(small, dataclasses.replace(certificate, **change))  # type: ignore[arg-type]
        assert len(wrong) == 1 and word in wrong[0]
    with pytest.raises(CertificateError, match="does not list the layers"):
        disputed(small, dataclasses.replace(certificate, layers=certificate.layers[:1]))


def test_disputes_a_step_that_is_too_long_and_foreign_activations(small: GradientFlowDenoiser) -> None:
    certificate = certify(small)
    small.layers[0].tau.data *= -1
    small.layers[1].activation = ReLU()
    wrong = disputed(small, certificate)
    assert "the certificate belongs to other weights" in wrong
    assert any(re.match(r"layers.0: τU²/2 = -0\..* is not in", line) for line in wrong)
    assert any("no NoiseClip" in line for line in wrong)
    small.layers[0].tau.data *= -2
    assert "the Lipschitz constant of the composition is not proved" in disputed(small, certificate)


def test_without_flint(small: GradientFlowDenoiser, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(second_opinion, "flint", None)
    with pytest.raises(InputError, match=r"pip install 'pnp-lip\[flint\]'"):
        norm_is_below(torch.ones(1, 1), 2.0)
    assert main(["certify", "tiny", "--verify", "flint"]) == 2
    assert "python-flint" in capsys.readouterr().err


def test_on_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", "tiny", "--verify", "flint"]) == 0
    assert "verified by ball arithmetic" in capsys.readouterr().out
    monkeypatch.setattr("pnp_lip.command_line.certify.disputed", lambda *_: ["layers.0: a", "layers.1: b"])
    assert main(["certify", "tiny", "--verify", "flint"]) == 1
    assert capsys.readouterr().out.count("NOT VERIFIED by ball arithmetic: layers.") == 2
