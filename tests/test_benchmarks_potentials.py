"""Potentials in the benchmarks: published ridge regularisers from files, and one objective beside the other priors."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pnp_lip import save_denoiser
from pnp_lip.benchmarks import certificates, published, tasks
from pnp_lip.benchmarks.comparison import SETTLED, denoise, restore
from pnp_lip.benchmarks.config import CertificatesConfig, CtConfig, DeblurringConfig, DenoisingConfig, Limits, Photographs, Scans
from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.benchmarks.priors import PotentialPrior, Prior, collect, prior_of
from pnp_lip.benchmarks.problem import Observation
from pnp_lip.benchmarks.published import load_published
from pnp_lip.benchmarks.record import Destination
from pnp_lip.benchmarks.report import headline, markdown
from pnp_lip.command_line.main import main
from pnp_lip.errors import InputError
from pnp_lip.operators import Blur, gaussian_psf
from pnp_lip.potentials import RidgePotential
from pnp_lip.solvers import ProximalDenoiser, Variational
from pnp_lip.spectral import norm_bound

PHOTOGRAPHS = Photographs(crop=24, limit=1, side=12)
LIMITS = Limits(tol=1e-3, max_iter=500, seconds=10.0)
KNOTS = np.linspace(-0.1, 0.1, 21)


def network(*, fall: float = 1.0) -> dict[str, np.ndarray]:
    """A small network in the layout of the published ones: 1, 2, 3 and 5 channels, kernels of 3 pixels."""
    random = np.random.default_rng(0)
    kernels = {f"conv{i}": random.standard_normal(shape) for i, shape in enumerate([(2, 1, 3, 3), (3, 2, 3, 3), (5, 3, 3, 3)])}
    kernels["conv0"] -= kernels["conv0"].mean((2, 3), keepdims=True)
    half = np.array([9.0, 9.0, 4.0, *[-fall] * 6, 0.0])
    slopes = np.concatenate([half[::-1], half])
    phi = np.concatenate([[0.0], np.cumsum(slopes * np.diff(KNOTS))])
    levels = np.arange(0.0, 31.0, 6.0)
    scaling = np.exp(1 + 0.3 * random.standard_normal((len(levels), 5))) / (levels[:, None] + 1e-5)
    return {**kernels, "knots": KNOTS, "phi": phi - phi.mean(), "slopes": slopes, "scaling_levels": levels,
            "scaling": scaling, "conv_norm": np.array(80.0)}  # fmt: skip


def saved(folder: Path, **changes: np.ndarray | None) -> Path:
    """The network's file, some arrays changed or left out."""
    arrays = {name: array for name, array in {**network(), **changes}.items() if array is not None}
    np.savez(folder / "network.npz", **{name: np.asarray(array, dtype=np.float32) for name, array in arrays.items()})
    return folder / "network.npz"


def as_published(held: dict[str, np.ndarray], x: Tensor, level: float, pad: int) -> Tensor:
    """Wᵀ φ(s Wx)/s by three convolutions, valid inside of ``pad`` pixels of a border that repeats."""
    kernels = [torch.from_numpy(held[f"conv{i}"]) for i in range(3)]
    exponents = np.log(held["scaling"] * (held["scaling_levels"][:, None] + 1e-5))
    s = np.array([np.exp(np.interp(level, held["scaling_levels"], a)) / (level + 1e-5) for a in exponents.T])
    t = F.pad(x, (pad,) * 4, mode="circular")
    for kernel in kernels:
        t = F.conv2d(t, kernel, padding=kernel.shape[-1] // 2)
    t = t * s[:, None, None] / float(held["conv_norm"]) ** 0.5
    t = torch.from_numpy(np.interp(t.numpy(), held["knots"], held["phi"])) / s[:, None, None] / float(held["conv_norm"]) ** 0.5
    for kernel in reversed(kernels):
        t = F.conv_transpose2d(t, kernel, padding=kernel.shape[-1] // 2)
    return t[..., pad:-pad, pad:-pad]


def test_an_image_refutes_a_claimed_norm(tmp_path: Path) -> None:
    """The largest ‖Wx‖²/‖x‖² of the network as it is published, and never more than there is."""
    forward, adjoint = published.as_published(saved(tmp_path))
    columns = torch.stack([forward(e.reshape(1, 1, 6, 6)).flatten() for e in torch.eye(36, dtype=torch.float64)], 1)
    rows = torch.stack([adjoint(e.reshape(1, 5, 6, 6)).flatten() for e in torch.eye(180, dtype=torch.float64)], 0)
    assert torch.allclose(columns, rows, atol=1e-12)
    largest = float(torch.linalg.matrix_norm(columns, 2)) ** 2
    ratio, x = published.expanded(saved(tmp_path), side=6)
    assert 0.999 * largest < ratio <= largest * (1 + 1e-12)
    assert ratio == pytest.approx(float(forward(x).square().sum() / x.square().sum()), rel=1e-12)


@pytest.mark.parametrize("level", [0.5, 3.0, 7.7, 25.0, 30.0])
def test_the_gradient_is_the_published_one(level: float, tmp_path: Path) -> None:
    potential = load_published(saved(tmp_path), padding_mode="circular")
    x = torch.rand(1, 1, 18, 18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = as_published(network(), x, level, pad=9)
    found = potential.grad(x.float(), level / 255).double()
    assert (found - expected).abs().max() < 1e-2 * expected.abs().max()
    assert potential.config["kernel_size"] == 7 and potential.config["filters"] == 5
    inside = (..., slice(9, -9), slice(9, -9))
    larger = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    wanted = as_published(network(), larger.double(), level, pad=1)[inside]  # padded between its three convolutions
    assert (load_published(saved(tmp_path)).grad(larger, level / 255)[inside] - wanted).abs().max() < 1e-2 * wanted.abs().max()


def test_the_profile_is_a_sum_of_clips(tmp_path: Path) -> None:
    clip = load_published(saved(tmp_path)).activation
    assert [*clip.rise.tolist(), *clip.fall.tolist()] == pytest.approx([5.0, 5.0, 1.0], rel=1e-4)
    assert clip.log_rise_limit[0].exp().tolist() == pytest.approx([0.02, 0.03], rel=1e-4)
    low, high = clip.slope_bounds()
    assert (float(low), float(high)) == pytest.approx((-1.0, 9.0), rel=1e-4)
    convex = network(fall=0.0)
    clip = load_published(saved(tmp_path, phi=convex["phi"], slopes=convex["slopes"])).activation
    assert len(clip.fall) == 0 and float(clip.slope_bounds()[0]) == 0


def test_beyond_the_last_level_the_potential_is_scaled(tmp_path: Path) -> None:
    potential = load_published(saved(tmp_path))
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(potential.grad(1.5 * x, 48 / 255), 1.5 * potential.grad(x, 32 / 255), rtol=1e-4, atol=1e-3)


HELD = network()
WRONG = {
    "conv_norm": (None, "expected an .npz file with conv0"),
    "conv0": (np.zeros((2, 1, 3)), "expected finite numbers"),
    "conv1": (np.zeros((3, 4, 3, 3)), "follow each other"),
    "conv2": (np.zeros((5, 3, 4, 4)), "square odd kernels"),
    "scaling": (np.ones((6, 4)), "each of 5 filters"),
    "scaling_levels": (HELD["scaling_levels"][::-1], "increasing level"),
    "knots": (HELD["knots"] + 0.01, "must be odd"),
    "phi": (HELD["phi"] * 2, "not those of `phi`"),
    "slopes": (HELD["slopes"][1:], "a slope between them"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_of_another_layout_are_refused(name: str, tmp_path: Path) -> None:
    change, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        load_published(saved(tmp_path, **{name: change}))


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "words.npz", **dict.fromkeys(HELD, np.array("word")))
    for name in ("text.npz", "array.npy", "words.npz", "missing.npz"):
        with pytest.raises(InputError, match=r"expected an \.npz file"):
            load_published(tmp_path / name)
    for change, message in (
        ({"conv_norm": np.array(-1.0)}, "must be positive"),
        ({"scaling": -HELD["scaling"]}, "a positive number for each"),
        ({"phi": HELD["phi"] * np.nan}, "finite numbers"),
        ({"phi": np.linspace(-1, 1, 21), "slopes": np.full(20, 10.0)}, "constant beyond its knots"),
        ({"phi": 0 * HELD["phi"], "slopes": 0 * HELD["slopes"]}, "never rises"),
    ):
        with pytest.raises(InputError, match=message):
            load_published(saved(tmp_path, **change))


# Beside the other priors


def ridge(fall: float = 0.8, channels: int = 1) -> RidgePotential:
    """A potential of curvature in [−``fall``, 12 − ``fall``], a few filters of differences."""
    torch.manual_seed(0)
    potential = RidgePotential(in_channels=channels, filters=4, kernel_size=3, rising=2, falling=1)
    potential.activation.set_profile([9.0, 3.0], [fall], [0.1, 0.3], [2.0])
    with torch.no_grad():
        potential.weight.div_(norm_bound(potential.weight, padding_mode="circular", rtol=1e-5).upper)
    return potential.eval().requires_grad_(False)


def observed(noise: float = 0.05) -> Observation:
    """A photograph with noise, and blurred."""
    x = photograph("camera", 24)
    physics = Blur(gaussian_psf(1.0), (1, 24, 24), padding="circular")
    y = physics.A(x) + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return Observation(x, y, noise, physics)


def test_the_prior_of_a_potential_knows_its_curvature() -> None:
    prior = prior_of("ridge", ridge(), ours=True)
    assert isinstance(prior, PotentialPrior) and prior.certified and not prior.nonexpansive
    assert prior.kind == "global minimiser" and isinstance(prior.at(1.0, 0.1)[0], ProximalDenoiser)
    row = prior.describe()
    assert row["solver"] == "Variational" and row["ours"] and row["certified"] and row["averagedness"] is None
    assert row["curvature"] == pytest.approx((-0.8, 11.2), rel=1e-3) and 5 <= row["lipschitz_upper"] < 5.02
    assert row["parameters"] == sum(p.numel() for p in ridge().parameters()) and len(row["weights_sha256"]) == 64
    solver = prior.solver_at(4.0, 0.01, 1e-3)
    assert isinstance(solver, Variational) and (solver.sigma, solver.tol, solver.box) == (0.02, 3e-5, (0.0, 1.0))
    assert prior.strength.start == 0.125


def test_beyond_rho_1_denoising_gives_a_critical_point() -> None:
    prior = prior_of("steep", ridge(fall=1.2))
    assert prior.kind == "critical point" and prior.describe()["lipschitz_upper"] is None
    y = observed().y
    denoiser, sigma = prior.at(4.0, 0.025)
    x = denoiser(y, sigma)
    assert float((x - y + ridge(fall=1.2).grad(x, 0.05)).square().mean().sqrt()) < 1e-3


def test_a_potential_without_a_certificate_runs_without_a_proof() -> None:
    potential = ridge()
    potential.register_forward_hook(lambda *_: None)
    prior = prior_of("hooked", potential)
    assert not prior.certified and prior.kind is None and prior.reason and prior.describe()["curvature"] is None


def test_one_pass_and_a_restoration_say_what_they_found() -> None:
    prior, data = prior_of("ridge", ridge()), observed()
    row = denoise(prior, 1.0, dataclasses.replace(data, physics=None), False, LIMITS)
    assert row["guarantee"] == "global minimiser, proved" and row["psnr"] > 15
    row = restore(prior, 0.25, data, False, LIMITS)
    assert row["status"] == "converged" and row["guarantee"] == "critical point, proved"
    assert "distance" not in row and math.isfinite(row["objective"])
    assert abs(row["psnr_tol10"] - row["psnr"]) < SETTLED
    assert "psnr_tol10" not in restore(prior, 1.0, data, True, LIMITS)
    identity = dataclasses.replace(data, y=data.x, physics=Blur(torch.ones(1, 1), (1, 24, 24), padding="circular"))
    row = restore(prior, 1.0, identity, False, LIMITS)
    assert row["guarantee"] == "global minimiser, proved" and 0 < row["distance"] < 0.1
    denoiser = restore(prior_of("tiny", lambda x, sigma: x), 1.0, data, False, LIMITS)
    assert "objective" not in denoiser and denoiser["guarantee"] == "none"


def test_potentials_stand_in_the_tables_of_all_comparisons(tmp_path: Path) -> None:
    priors = [prior_of("ridge", ridge(), ours=True), Prior("blur", lambda x, sigma: (x + x.mean()) / 2)]
    quick = Limits(tol=1e-2, max_iter=500, seconds=10.0)
    records = {
        "denoising": tasks.denoising(DenoisingConfig(PHOTOGRAPHS, (25,)), Destination(tmp_path / "denoising.json"), priors),
        "deblurring": tasks.deblurring(
            DeblurringConfig(PHOTOGRAPHS, None, 1, (0.01,), limits=quick), Destination(tmp_path / "deblurring.json"), priors
        ),
        "ct": tasks.ct(
            CtConfig(None, Scans(("parallel 60",), ("Gaussian",)), 1, 24, limits=quick),
            Destination(tmp_path / "ct.json"),
            priors,
        ),
    }
    assert records["denoising"]["priors"]["ridge"]["grid"] == [1.0]  # the true noise level, as networks get
    for name, content in records.items():
        assert not [row for row in content["rows"] if "error" in row], name
        text = markdown(tmp_path / f"{name}.json")
        kinds = {row["guarantee"] for row in content["rows"] if row["prior"] == "ridge"}
        kind = "global minimiser" if name == "denoising" else "critical point"
        assert kinds == {f"{kind}, proved"} and f"| {kind}, proved |" in text
    assert "| **ridge** |" in headline(records) and "critical point, proved" in headline(records)


def test_the_curvature_of_potentials_is_attacked(tmp_path: Path) -> None:
    config = CertificatesConfig((25,), steps=0, side=8, layers=1, channels=2)
    content = certificates.run(config, Destination(tmp_path / "certificates.json"), [prior_of("ridge", ridge())])
    row = next(r for r in content["rows"] if r.get("prior") == "ridge" and "sigma" in r)
    (lower, upper), (least, largest) = row["curvature"], row["found"]
    assert lower <= least < 0 < largest <= upper and largest > 0.9 * upper and not row["refuted"]
    assert "| ridge | 25 | -0.8" in markdown(tmp_path / "certificates.json")


def test_files_of_potentials_take_part(tmp_path: Path) -> None:
    save_denoiser(ridge(), tmp_path / "own.safetensors")
    entries = [f"own={tmp_path / 'own.safetensors'}", f"crr={saved(tmp_path)}"]
    priors, skipped = collect(entries, ["own", "crr"])
    assert [(p.name, p.ours) for p in priors] == [
        ("own", True),
        ("crr", False),
    ] and not skipped
    assert all(p.certified for p in priors)
    for entry in entries:
        with pytest.raises(InputError, match="it takes 1 channels"):
            collect([entry], channels=3)
    (tmp_path / "other.npz").write_text("no archive")
    with pytest.raises(InputError, match="conv0"):
        collect([f"a={tmp_path / 'other.npz'}"])
    common = [
        "bench",
        "deblurring",
        "--quick",
        "--crop",
        "24",
        "--side",
        "24",
        "--priors",
        "own",
        "--tol",
        "1e-3",
    ]
    assert main([*common, "--denoiser", entries[0], "--out", str(tmp_path / "out")]) == 0
    assert "| **own** |" in (tmp_path / "out" / "deblurring.md").read_text()


def test_colour_potentials_deblur_colour(tmp_path: Path) -> None:
    config = DeblurringConfig(dataclasses.replace(PHOTOGRAPHS, colour=True), None, 1, (0.03,), limits=Limits(tol=1e-2))
    content = tasks.deblurring(config, Destination(tmp_path / "c.json"), [prior_of("ridge", ridge(channels=3), channels=3)])
    assert content["rows"][0]["status"] == "converged"
