"""Certificates of potentials: dense Hessians lie within the bounds, every mutation is caught, and tampering is refused."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pnp_lip import Certificate, certify, load_denoiser, save_denoiser
from pnp_lip.certificates import CurvatureBound, rule
from pnp_lip.check import check, main, read_safetensors, slope_range
from pnp_lip.command_line import main as command
from pnp_lip.denoisers import ClippedDenoiser, relax
from pnp_lip.errors import CertificateError, InputError
from pnp_lip.layers import RedescendingClip
from pnp_lip.operators import Blur, gaussian_psf
from pnp_lip.potentials import RidgePotential
from pnp_lip.potentials.ridge_potential import RidgeAtLevel
from pnp_lip.pretrained import BUILDERS, POTENTIAL
from pnp_lip.second_opinion import disputed
from pnp_lip.solvers import ForwardBackward, licensed
from pnp_lip.spectral import norm_bound

LIMITS = ("log_scale", "log_rise_limit", "log_fall_limit")
SIGMAS = (1e-7, 0.02, 1.0)


def ridge(seed: int = 0, **options: Any) -> RidgePotential:
    """A small potential of norm one, whose limits differ from knot to knot, with slopes in [−0.8, 11.2]."""
    torch.manual_seed(seed)
    potential = RidgePotential(**{"filters": 6, "kernel_size": 5, **options}).requires_grad_(False).eval()
    potential.activation.set_profile([8.0, 3.0, 1.0], [0.3, 0.5], [0.03, 0.1, 0.3], [0.5, 2.0])
    potential.weight /= norm_bound(potential.weight, rtol=1e-6).upper
    for name in LIMITS:
        tensor = getattr(potential.activation, name)
        tensor += 0.05 * torch.randn(tensor.shape)
    return potential


def hessian(potential: RidgePotential, x: Tensor, sigma: float, h: float) -> Tensor:
    """The symmetric part of the dense Jacobian of ∇R at x, by central differences of ∇R in float64."""
    n = x.numel()
    steps = h * torch.eye(n, dtype=torch.float64).reshape(n, *x.shape[1:])
    level = potential.at(sigma)
    matrix = ((level.grad(x + steps) - level.grad(x - steps)) / (2 * h)).reshape(n, n)
    return (matrix + matrix.T) / 2


CASES = [
    ("circular", 1, (9, 8)),
    ("zeros", 1, (9, 8)),
    ("circular", 2, (6, 5)),
    ("zeros", 2, (4, 7)),
    ("circular", 1, (3, 2)),
    ("zeros", 1, (1, 1)),
]


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize(("padding", "channels", "size"), CASES)
def test_dense_hessians_lie_within_the_bounds(padding: str, channels: int, size: tuple[int, int], sigma: float) -> None:
    potential = ridge(in_channels=channels, padding_mode=padding)
    bound = certify(potential).curvature
    assert bound is not None and bound.rho == -bound.lower > 0
    exact, generator = copy.deepcopy(potential).double(), torch.Generator().manual_seed(0)
    found = []
    for size_of_x in (0.0, 0.1, 0.5, 1.0, 3.0):
        x = size_of_x * max(sigma, 1e-6) * torch.randn(1, channels, *size, generator=generator, dtype=torch.float64)
        for h in (1e-6, 1.0):
            values = torch.linalg.eigvalsh(hessian(exact, x, sigma, h * max(sigma, 1e-6)))
            found += [float(values[0]), float(values[-1])]
    assert bound.lower * (1 + 1e-7) <= min(found) and max(found) <= bound.upper * (1 + 1e-7)
    if size == (9, 8):
        assert min(found) < 0.25 * bound.lower and max(found) > 0.7 * bound.upper


def test_the_numbers_are_those_of_the_theorem_rounded_outwards() -> None:
    potential = ridge()
    certificate = certify(potential)
    (line,), curvature = certificate.layers, certificate.curvature
    assert curvature is not None
    low, high = potential.activation.slope_bounds()
    square = Fraction(line.norm.upper) ** 2
    assert Fraction(curvature.lower) <= low * square and high * square <= Fraction(curvature.upper)
    assert curvature.lower == pytest.approx(float(low * square), rel=1e-15) and line.norm.gap <= 1e-4
    assert certificate.bound.lipschitz == Fraction(curvature.upper) and certificate.averagedness is None
    assert (line.kind, line.path, certificate.scope) == ("RidgePotential", "", "any image size, circular padding")
    assert "curvature ≤" in str(certificate) and "its gradient has a Lipschitz constant" in str(certificate)
    potential.activation.fall.zero_()
    convex = certify(potential).curvature
    assert convex is not None and str(convex.lower) == "0.0" and str(convex.rho) == "0.0"


def test_negative_slopes_are_counted_with_their_sign() -> None:
    potential = ridge()
    potential.activation.rise[2], potential.activation.fall[0] = -2.0, -0.4
    bound = certify(potential).curvature
    assert bound is not None and bound.lower == pytest.approx(-2.5 + 0.4 - 0.0, abs=0.5)
    low, high = (f * Fraction(certify(potential).layers[0].norm.upper) ** 2 for f in potential.activation.slope_bounds())
    assert Fraction(bound.lower) <= low and high <= Fraction(bound.upper)


def slopes_on_a_grid(clip: RedescendingClip, points: int = 400) -> tuple[float, float]:
    """The range of Σ slopes over the active clips, at many noise levels, with limits interpolated in float64."""
    limits = torch.cat([clip.log_rise_limit, clip.log_fall_limit], 1).detach().double()
    slopes = torch.cat([clip.rise, -clip.fall]).detach().double()
    position = torch.linspace(0, len(limits) - 1, points, dtype=torch.float64)
    left = position.floor().long().clamp_max(len(limits) - 2)
    level = torch.lerp(limits[left], limits[left + 1], (position - left)[:, None])
    active = (level[:, :, None] >= level[:, None, :]).double()  # [level, clip, just below the limit of]
    found = torch.einsum("pjk,j->pk", active, slopes)
    return min(0.0, float(found.min())), max(0.0, float(found.max()))


@pytest.mark.parametrize("seed", range(30))
def test_slope_bounds_hold_for_every_noise_level(seed: int) -> None:
    """Limits of random profiles cross between the knots; the certifier's bounds enclose the checker's exact range."""
    torch.manual_seed(seed)
    clip = RedescendingClip(1, rising=1 + seed % 4, falling=seed % 3, knots=2 + seed % 4)
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.copy_(torch.rand_like(parameter) if parameter.ndim == 1 else torch.randn_like(parameter))
        if seed % 5 == 0:  # ties
            clip.log_rise_limit.copy_(clip.log_rise_limit.round())
            clip.log_fall_limit.copy_(clip.log_fall_limit.round())
    arrays = (t.detach().double().numpy() for t in (clip.rise, clip.fall, clip.log_rise_limit, clip.log_fall_limit))
    (low, high), (exact_low, exact_high) = clip.slope_bounds(), slope_range(*arrays)
    seen = slopes_on_a_grid(clip)
    assert low <= exact_low <= seen[0] + 1e-12 and seen[1] - 1e-12 <= exact_high <= high
    assert seen[0] <= float(exact_low) + 0.2 * float(high - low) and seen[1] >= float(exact_high) - 0.2 * float(high - low)


def test_slopes_are_exact_where_the_order_stays() -> None:
    clip = ridge().activation
    arrays = (t.double().numpy() for t in (clip.rise, clip.fall, clip.log_rise_limit, clip.log_fall_limit))
    assert clip.slope_bounds() == slope_range(*arrays)


# Files


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ridge")
    assert save_denoiser(ridge(), folder / "r.safetensors") == certify(ridge())
    return folder


@pytest.fixture
def files(saved: Path, tmp_path: Path) -> tuple[Path, Path]:
    weights, certificate = (Path(shutil.copy(saved / name, tmp_path)) for name in ("r.safetensors", "r.certificate.json"))
    return weights, certificate


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def change_tensors(files: tuple[Path, Path], change: Callable[[dict[str, Tensor]], object], *, hashes: bool) -> None:
    with safe_open(files[0], "pt") as file:
        metadata = file.metadata()
    tensors = load_file(files[0])
    change(tensors)
    save_file({name: t.contiguous() for name, t in tensors.items()}, files[0], metadata=metadata)
    if hashes:
        rewrite(files[1], lambda c: c.update(weights=read_safetensors(files[0])[1]))


def test_files_hold_potentials(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = load_denoiser(files[0])
    assert isinstance(found, RidgePotential) and not found.training and found.config == ridge().config
    assert all(torch.equal(t, ridge().state_dict()[name]) for name, t in found.state_dict().items())
    assert check(*files) == [] and main([str(f) for f in files]) == 0 and "curvature" in capsys.readouterr().out
    assert Certificate.from_json(files[1].read_text()) == certify(found)
    torch.save({"format": POTENTIAL, "config": found.config, "state_dict": found.state_dict()}, tmp_path / "r.pt")
    assert isinstance(load_denoiser(tmp_path / "r.pt"), RidgePotential) and POTENTIAL in BUILDERS
    for padding, dtype in (("zeros", torch.float64), ("circular", torch.bfloat16)):
        save_denoiser(ridge(padding_mode=padding, falling=2, in_channels=2).to(dtype), tmp_path / "other.safetensors")
        assert check(tmp_path / "other.safetensors", tmp_path / "other.certificate.json") == []
    flat = RidgePotential(filters=2, kernel_size=3, falling=0, rising=1, knots=2)
    save_denoiser(flat, tmp_path / "flat.safetensors")
    assert check(tmp_path / "flat.safetensors", tmp_path / "flat.certificate.json") == []


MUTATIONS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "weight": lambda t: t["weight"].mul_(1.01),
    "s": lambda t: t["activation.fall"].mul_(1.01),
    "μ": lambda t: t["activation.rise"].mul_(1.01),
    "order of the limits": lambda t: t["activation.log_rise_limit"].copy_(t["activation.log_rise_limit"].flip(1) + 5),
    "fewer scales": lambda t: t.update({"activation.log_scale": t["activation.log_scale"][:, :5]}),
    "scales that overflow": lambda t: t["activation.log_scale"].fill_(200.0),
    "limits that vanish": lambda t: t["activation.log_rise_limit"].fill_(-200.0),
    "limits that are none": lambda t: t["activation.log_rise_limit"].fill_(math.nan),
    "another tensor": lambda t: t.update({"bias": torch.zeros(6)}),
    "a missing tensor": lambda t: t.pop("activation.fall"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_are_caught(files: tuple[Path, Path], name: str) -> None:
    """By the hashes, by loading, and with fitting hashes by mathematics alone."""
    change_tensors(files, MUTATIONS[name], hashes=False)
    assert any("SHA-256" in line for line in check(*files))
    with pytest.raises((CertificateError, InputError)):
        load_denoiser(files[0])
    change_tensors(files, len, hashes=True)
    wrong = check(*files)
    assert wrong and not any("SHA-256" in line for line in wrong)


def scaled(text: str, factor: float) -> str:
    return (float.fromhex(text) * factor).hex()


FALSIFICATIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "ρ": lambda c: c["curvature"].update(lower=scaled(c["curvature"]["lower"], 0.999)),
    "L": lambda c: c["curvature"].update(upper=scaled(c["curvature"]["upper"], 0.999)),
    "convex": lambda c: c["curvature"].update(lower="0x0.0p+0"),
    "no curvature": lambda c: c.update(curvature=None),
    "norm": lambda c: c["layers"][0]["norm"].update(upper=scaled(c["layers"][0]["norm"]["lower"], 1 - 1e-6)),
    "lower norm": lambda c: c["layers"][0]["norm"].update(lower=scaled(c["layers"][0]["norm"]["upper"], 1.001)),
    "Lipschitz constant": lambda c: c["bound"].update(lipschitz=scaled(c["bound"]["lipschitz"], 0.999)),
    "Lipschitz constant of the line": lambda c: c["layers"][0].update(lipschitz_upper="0x1.0000000000000p+0"),
    "slopes": lambda c: c["layers"][0].update(slopes=[-0.8, 11.0]),
    "slopes below": lambda c: c["layers"][0].update(slopes=[-0.7, 12.0]),
    "averagedness": lambda c: c["bound"].update(averagedness="0x1.0000000000000p-1"),
    "averagedness of the line": lambda c: c["layers"][0].update(averagedness="0x1.0000000000000p-1"),
    "prox": lambda c: c["bound"].update(proximal=True),
    "box": lambda c: c["bound"].update(box=[0.0, 1.0]),
    "rounding": lambda c: c.update(rounding="0x1.0000000000000p-1"),
    "step": lambda c: c["layers"][0].update(tau="0x1.0000000000000p+0"),
    "kind": lambda c: c["layers"][0].update(kind="GradientFlowConv2d"),
    "path": lambda c: c["layers"][0].update(path="layers.0"),
    "padding": lambda c: c["layers"][0]["norm"].update(padding_mode="zeros"),
    "method": lambda c: c["layers"][0]["norm"].update(method="CHOLESKY"),
    "smallest image": lambda c: c.update(smallest_image=[9, 9]),
    "smallest image of the norm": lambda c: c["layers"][0]["norm"].update(smallest_image=[9, 9]),
    "statement": lambda c: c.update(stated=["slopes"]),
    "dtype": lambda c: c.update(dtype="float64"),
    "two lines": lambda c: c["layers"].append(c["layers"][0]),
    "no lines": lambda c: c["layers"].clear(),
}


@pytest.mark.parametrize("name", FALSIFICATIONS)
def test_falsified_claims_are_caught(files: tuple[Path, Path], name: str) -> None:
    rewrite(files[1], FALSIFICATIONS[name])
    text = files[1].read_text()
    assert main([str(f) for f in files]) == 1
    assert json.loads(text) != json.loads(certify(ridge()).to_json())


UNREADABLE = [
    *({"curvature": {"lower": low, "upper": "0x1.0000000000000p+3"}} for low in ("nan", "-inf", "-0.5", -0.5, None, True)),
    {"curvature": {"lower": "-0x1.0000000000000p-1"}},
    {"curvature": {"lower": "-0x1.0000000000000p-1", "upper": "0x1.0000000000000p+3", "note": ""}},
    {"curvature": [-0.5, 8.0]},
    {"curvature": "0x0.0p+0"},
]


@pytest.mark.parametrize("change", UNREADABLE)
def test_no_claim_is_read_out_of_other_files(files: tuple[Path, Path], change: dict[str, Any]) -> None:
    rewrite(files[1], lambda c: c.update(change))
    assert main([str(f) for f in files]) == 2
    with pytest.raises(CertificateError, match="not a certificate"):
        Certificate.from_json(files[1].read_text())


BAD_CONFIG = [("filters", 0), ("filters", True), ("rising", 0), ("falling", -1), ("knots", 1), ("padding_mode", "reflect"),
              ("kernel_size", 4), ("default_sigma", -1.0), ("in_channels", 1.0), ("dilations", [1])]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), BAD_CONFIG)
def test_configurations_of_no_potential_are_refused(files: tuple[Path, Path], field: str, value: object) -> None:
    metadata = {"format": POTENTIAL, "config": json.dumps({**ridge().config, field: value})}
    save_file(load_file(files[0]), files[0], metadata=metadata)
    assert main([str(f) for f in files]) == 2


def test_a_certificate_of_a_denoiser_claims_no_curvature() -> None:
    from pnp_lip.pretrained import WEIGHTS

    folder = Path(str(WEIGHTS))
    text = json.loads((folder / "tiny.certificate.json").read_text())
    assert text["schema"] == "pnp-lip certificate 4" and text["curvature"] is None


# Strict reading

IMPOSSIBLE: dict[str, Callable[[dict[str, Any]], object]] = {
    "NaN for ‖W‖": lambda c: c["layers"][0]["norm"].update(upper="nan"),
    "negative α": lambda c: c["bound"].update(averagedness=(-5.0).hex()),
    "α above one": lambda c: c["bound"].update(averagedness=(1.5).hex()),
    "negative α of a layer": lambda c: c["layers"][0].update(averagedness=(-5.0).hex()),
    "negative Lipschitz constant": lambda c: c["bound"].update(lipschitz=(-1.0).hex()),
    "infinite Lipschitz constant": lambda c: c["bound"].update(lipschitz="inf"),
    "negative rounding": lambda c: c.update(rounding=(-1.0).hex()),
    "norm below its lower bound": lambda c: c["layers"][0]["norm"].update(lower=(9.0).hex()),
    "negative norm": lambda c: c["layers"][0]["norm"].update(upper=(-1.0).hex(), lower=(-2.0).hex()),
    "slopes in the wrong order": lambda c: c["layers"][0].update(slopes=[1.0, 0.0]),
    "a box in the wrong order": lambda c: c["bound"].update(box=[1.0, 0.0]),
    "a number for a truth value": lambda c: c["bound"].update(proximal=1),
    "curvature in the wrong order": lambda c: c.update(curvature={"lower": (1.0).hex(), "upper": (-1.0).hex()}),
    "curvature above the Lipschitz constant": lambda c: c.update(curvature={"lower": (-1.0).hex(), "upper": (99.0).hex()}),
    "unknown field": lambda c: c.update(note=""),
    "missing field": lambda c: c.pop("curvature"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_numbers_are_refused(name: str) -> None:
    data = json.loads(certify(ridge()).to_json())
    IMPOSSIBLE[name](data)
    with pytest.raises(CertificateError, match=r"not a certificate|expected finite numbers"):
        Certificate.from_json(json.dumps(data))


def test_json_comes_back_and_says_a_thing_once() -> None:
    certificate = certify(ridge())
    text = certificate.to_json()
    assert Certificate.from_json(text) == certificate
    for old, new in (('"stated": []', '"stated": [], "stated": []'), ('"slopes": [', '"slopes": [NaN, '), ("{", "[{")):
        with pytest.raises(CertificateError):
            Certificate.from_json(text.replace(old, new, 1))
    for low, high in ((0.0, math.nan), (-math.inf, 1.0), (1.0, 0.0)):
        with pytest.raises(CertificateError, match="lower <= upper"):
            CurvatureBound(low, high)


# A potential is no denoiser


def test_no_solver_takes_a_potential_for_a_denoiser() -> None:
    potential = ridge()
    potential.activation.rise.mul_(0.01)  # a nonexpansive gradient
    certificate = certify(potential)
    assert certificate.lipschitz_upper <= 1 and not certificate.nonexpansive and licensed(certificate) == ()
    with pytest.raises(CertificateError, match="is a potential R, which gives one number for each image"):
        certificate.require_nonexpansive()
    physics, x = Blur(gaussian_psf(1.0), (1, 12, 12), padding="circular"), torch.rand(1, 1, 12, 12)
    for guarantee in ("require", "report", "assume"):
        with pytest.raises(CertificateError, match="is a potential R"):
            ForwardBackward(potential, sigma=0.1).solve(x, physics, guarantee=guarantee)
    for whole in (nn.Sequential(nn.Identity(), potential), ClippedDenoiser(potential), relax(potential, 0.5)):
        with pytest.raises(CertificateError, match="is a potential, which gives one number"):
            certify(whole)


class Steeper(RidgePotential):
    def grad(self, x: Tensor, sigma: Any = None) -> Tensor:
        return 2 * super().grad(x, sigma)


class SteeperClip(RedescendingClip):
    pass


def with_(change: Callable[[RidgePotential], object]) -> RidgePotential:
    potential = ridge()
    change(potential)
    return potential


def parameter(name: str, value: Tensor) -> Callable[[RidgePotential], object]:
    return lambda p: setattr(
        p.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], nn.Parameter(value, requires_grad=False)
    )


TAMPERED: dict[str, Callable[[], nn.Module]] = {
    "a subclass": lambda: Steeper(filters=2, kernel_size=3),
    "an exchanged class": lambda: with_(lambda p: setattr(p, "__class__", Steeper)),
    "a clip of a subclass": lambda: with_(lambda p: setattr(p.activation, "__class__", SteeperClip)),
    "no clip": lambda: with_(lambda p: setattr(p, "activation", None)),
    "no weight": lambda: with_(lambda p: setattr(p, "weight", None)),
    "no limits": lambda: with_(lambda p: setattr(p.activation, "log_fall_limit", None)),
    "integers": lambda: with_(parameter("weight", torch.ones(6, 1, 5, 5, dtype=torch.int64))),
    "complex weights": lambda: with_(parameter("weight", torch.ones(6, 1, 5, 5, dtype=torch.complex64))),
    "a replaced method": lambda: with_(lambda p: setattr(p, "grad", lambda x, s: 2 * x)),
    "a replaced method of the clip": lambda: with_(lambda p: setattr(p.activation, "at", lambda s: None)),
    "replaced bounds": lambda: with_(lambda p: setattr(p.activation, "slope_bounds", lambda: (Fraction(0), Fraction(1)))),
    "a hook": lambda: with_(lambda p: p.register_forward_hook(lambda m, i, o: 2 * o)),
    "a hook of the clip": lambda: with_(lambda p: p.activation.register_forward_hook(lambda m, i, o: 2 * o)),
    "a parametrised weight": lambda: with_(lambda p: nn.utils.parametrizations.spectral_norm(p)),
    "a hidden weight": lambda: with_(lambda p: p.__dict__.update(weight=torch.ones(6, 1, 5, 5))),
    "a hidden clip": lambda: with_(lambda p: p.__dict__.update(activation=RedescendingClip(6))),
    "a padding without a theorem": lambda: with_(lambda p: setattr(p, "padding_mode", "reflect")),
    "a padding that compares as it likes": lambda: with_(lambda p: setattr(p, "padding_mode", type("T", (str,), {})("zeros"))),
    "a noise level that is none": lambda: with_(lambda p: setattr(p, "default_sigma", math.nan)),
    "a range that is none": lambda: with_(lambda p: setattr(p.activation, "log_range", (0.0, 0.0))),
    "even kernels": lambda: with_(parameter("weight", torch.ones(6, 1, 4, 4))),
    "oblong kernels": lambda: with_(parameter("weight", torch.ones(6, 1, 3, 5))),
    "scales of other filters": lambda: with_(parameter("activation.log_scale", torch.zeros(5, 7))),
    "scales of other knots": lambda: with_(parameter("activation.log_scale", torch.zeros(4, 6))),
    "one knot": lambda: with_(
        lambda p: [parameter(f"activation.{n}", getattr(p.activation, n)[:1])(p) for n in LIMITS]
    ),
    "limits of other clips": lambda: with_(parameter("activation.log_rise_limit", torch.zeros(5, 2))),
    "rises in a matrix": lambda: with_(parameter("activation.rise", torch.ones(1, 3))),
    "no rising clip": lambda: with_(
        lambda p: [parameter(f"activation.{n}", torch.zeros(*s, 0))(p) for n, s in (("rise", ()), ("log_rise_limit", (5,)))]
    ),
    **{
        f"{value} in {name}": lambda name=name, value=value: with_(lambda p: p.get_parameter(name).view(-1)[:1].fill_(value))
        for name in ("weight", "activation.rise", "activation.fall", "activation.log_scale", "activation.log_fall_limit")
        for value in (math.nan, math.inf)
    },
    "κ that overflows": lambda: with_(lambda p: p.activation.log_scale.fill_(100.0)),
    "κ that vanishes": lambda: with_(lambda p: p.activation.log_scale.fill_(-80.0)),
    "limits that overflow": lambda: with_(lambda p: p.activation.log_fall_limit.fill_(100.0)),
    "slopes that overflow": lambda: with_(lambda p: p.activation.rise.fill_(1e38)),
    "half precision": lambda: ridge().half(),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_tampering_is_refused(name: str) -> None:
    with pytest.raises((CertificateError, InputError)):
        certify(TAMPERED[name]())


@pytest.fixture
def patched_level(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(RidgeAtLevel, "grad", lambda self, x: 2 * x)
    yield


def test_patched_code_of_a_level_is_refused(patched_level: None) -> None:
    with pytest.raises(CertificateError, match=r"replaced `RidgeAtLevel\.grad`"):
        certify(ridge())


def test_writes_behind_the_certificate_are_seen() -> None:
    potential = ridge()
    before = certify(potential)
    assert certify(potential) is before
    for name, parameter in potential.named_parameters():
        parameter.data.mul_(1.01)
        now = certify(potential)
        assert now is not before and now.weights[name] != before.weights[name]
        before = now


def test_a_users_rule_for_a_potential_is_the_users_word() -> None:
    from pnp_lip.certificates.potentials import certify_ridge

    class Own(RidgePotential):
        pass

    rule(Own)(certify_ridge)
    certificate = certify(Own(filters=2, kernel_size=3))
    assert certificate.curvature is not None and "bounds Own" in certificate.stated[0]


# The second opinion and the command


def test_ball_arithmetic_agrees_and_disputes() -> None:
    pytest.importorskip("flint")
    import dataclasses

    potential = ridge(kernel_size=3)
    certificate = certify(potential)
    assert disputed(potential, certificate) == []
    assert certificate.curvature is not None
    lower = dataclasses.replace(certificate.curvature, lower=0.999 * certificate.curvature.lower)
    assert "exceeds" in disputed(potential, dataclasses.replace(certificate, curvature=lower))[0]
    line = certificate.layers[0]
    small = dataclasses.replace(line, norm=dataclasses.replace(line.norm, upper=0.99 * line.norm.upper))
    assert "is not verified" in disputed(potential, dataclasses.replace(certificate, layers=(small,)))[0]
    with pytest.raises(CertificateError, match="not that of a potential"):
        disputed(potential, dataclasses.replace(certificate, curvature=None))
    potential.weight.mul_(1.01)
    assert "other weights" in disputed(potential, certificate)[0]


def test_the_command(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(files[0])
    assert command(["certify", weights, "--json", str(tmp_path / "c.json")]) == 0
    assert "curvature ≤" in capsys.readouterr().out
    assert Certificate.from_json((tmp_path / "c.json").read_text()) == certify(load_denoiser(weights))
    assert command(["certify", weights, "--attack", "image.png"]) == 2
    assert "without images" in capsys.readouterr().err
    assert command(["certify", "tiny", "--attack"]) == 2
