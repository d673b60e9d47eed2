"""The independent checker: it agrees with the certifier, and catches every single falsified number or byte."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pnp_lip import save_denoiser
from pnp_lip.certificates import certify
from pnp_lip.check import check, main, method_of, norm_is_at_most, read_safetensors
from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.layers import project
from pnp_lip.spectral import norm_bound

Files = tuple[Path, Path]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    torch.manual_seed(0)
    denoiser = project(GradientFlowDenoiser(channels=3, hidden_channels=4, dilations=(1, 2)), limit=0.9)
    save_denoiser(denoiser, tmp_path / "d.safetensors")
    return tmp_path / "d.safetensors", tmp_path / "d.certificate.json"


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def change_norm(certificate: dict[str, Any], layer: int, **changes: object) -> None:
    certificate["layers"][layer]["norm"].update(changes)


def scaled(text: str, factor: float) -> str:
    return (float.fromhex(text) * factor).hex()


def test_verifies_what_was_certified(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(*files) == []
    assert main([str(f) for f in files]) == 0
    said = capsys.readouterr().out
    assert "verified anew" in said and "rounding" in said and "not verified: the layers' kinds" in said
    assert all(word in said.split("not verified")[0] for word in ("padding", "smallest image", "method"))
    rewrite(files[1], lambda c: c.update(rounding=None))  # to claim less is no lie
    assert check(*files) == []


@pytest.mark.parametrize("name", ["grey", "colour", "tiny"])
def test_verifies_the_shipped_denoisers(name: str) -> None:
    folder = Path(str(resources.files("pnp_lip.weights")))
    assert check(folder / f"{name}.safetensors", folder / f"{name}.certificate.json") == []


def test_the_padding_is_the_configurations(tmp_path: Path) -> None:
    """A certificate for zeros beside weights for circular padding proves nothing of them, and vice versa."""
    names = ("zeros", "circular")
    for mode in names:
        torch.manual_seed(0)
        denoiser = GradientFlowDenoiser(hidden_channels=4, dilations=(1,), padding_mode=mode)
        save_denoiser(project(denoiser, limit=0.9), tmp_path / f"{mode}.safetensors")
    for weights in names:
        for certificate in names:
            wrong = check(tmp_path / f"{weights}.safetensors", tmp_path / f"{certificate}.certificate.json")
            assert wrong == ([] if weights == certificate else [f"layers.0: the padding is not {weights}"])


def test_a_kernel_of_one_tap_calls_for_one_factorisation() -> None:
    framed = torch.zeros(2, 3, 3, 3)
    assert method_of(framed.numpy()) == norm_bound(framed).method.name == "CHOLESKY"
    framed[:, :, 2, 1] = 1
    assert method_of(framed.numpy()) == norm_bound(framed).method.name == "CHOLESKY"
    framed[1, 0, 0, 1] = 1e-30
    assert method_of(framed.numpy()) == norm_bound(framed).method.name == "BRANCH_AND_BOUND"


def test_runs_without_torch(files: Files) -> None:
    code = f"import sys; sys.modules['torch'] = None; from pnp_lip.check import main; sys.exit(main({[str(f) for f in files]!r}))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


FALSIFICATIONS: dict[str, Callable[[dict[str, Any]], None]] = {
    "norm too small": lambda c: change_norm(c, 1, upper=scaled(c["layers"][1]["norm"]["lower"], 1 - 1e-6)),
    "norm too large": lambda c: change_norm(c, 1, upper=scaled(c["layers"][1]["norm"]["upper"], 1.01)),
    "lower bound too large": lambda c: change_norm(c, 0, lower=scaled(c["layers"][0]["norm"]["lower"], 1 + 1e-6)),
    "smallest image": lambda c: change_norm(c, 0, smallest_image=[9, 9]),
    "smallest image, one side": lambda c: change_norm(c, 1, smallest_image=[1, 2]),
    "smallest image of nothing": lambda c: change_norm(c, 1, smallest_image=[0, 0]),
    "divisor": lambda c: change_norm(c, 1, divisible_by=[2, 1]),
    "another padding": lambda c: change_norm(c, 0, padding_mode="circular"),
    "no padding": lambda c: change_norm(c, 1, padding_mode=None),
    "unknown padding": lambda c: change_norm(c, 1, padding_mode="reflect"),
    "another method": lambda c: change_norm(c, 0, method="CHOLESKY"),
    "unknown method": lambda c: change_norm(c, 1, method="trust me"),
    "step": lambda c: c["layers"][0].update(tau=scaled(c["layers"][0]["tau"], 1 - 1e-12)),
    "no step": lambda c: c["layers"][0].update(tau=None),
    "no margin": lambda c: c["layers"][0].update(margin=None),
    "margin": lambda c: c["layers"][0].update(margin=scaled(c["layers"][0]["margin"], 1 + 1e-9)),
    "layer's averagedness": lambda c: c["layers"][0].update(averagedness=scaled(c["layers"][0]["averagedness"], 1 - 1e-12)),
    "layer's Lipschitz constant": lambda c: c["layers"][0].update(lipschitz_upper=(0.99).hex()),
    "slopes": lambda c: c["layers"][0].update(slopes=[0.0, 1.01]),
    "slopes understated": lambda c: c["layers"][0].update(slopes=[0.0, 0.5]),
    "slopes too small": lambda c: c["layers"][0].update(slopes=[-0.1, 1.0]),
    "averagedness": lambda c: c["bound"].update(averagedness=scaled(c["bound"]["averagedness"], 1 - 1e-12)),
    "Lipschitz constant": lambda c: c["bound"].update(lipschitz=(0.99).hex()),
    "proximal": lambda c: c["bound"].update(proximal=True),
    "rounding": lambda c: c.update(rounding=scaled(c["rounding"], 1 - 1e-5)),
    "dtype": lambda c: c.update(dtype="float64"),
    "box": lambda c: c["bound"].update(box=[0.0, 1.0]),
    "dropped layer": lambda c: c["layers"].pop(),
    "swapped layers": lambda c: c["layers"].reverse(),
    "hash": lambda c: c["weights"].update({"layers.0.tau": "0" * 64}),
    "missing tensor": lambda c: c["weights"].pop("layers.0.activation.shift"),
    "unknown tensor": lambda c: c["weights"].update(extra="0" * 64),
}


@pytest.mark.parametrize("name", list(FALSIFICATIONS))
def test_catches_a_falsified_certificate(files: Files, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(files[1], FALSIFICATIONS[name])
    assert check(*files)
    assert main([str(f) for f in files]) == 1
    assert "NOT VERIFIED" in capsys.readouterr().out


@pytest.mark.parametrize(("tensor", "factor"), [("layers.1.weight", 1.1), ("layers.0.tau", 1.2)])
def test_catches_changed_weights_even_with_fresh_hashes(files: Files, tensor: str, factor: float) -> None:
    """τ‖W‖² goes from 1.8 to above 2; the hashes are made to fit, so that only the mathematics can object."""
    change_tensor(files[0], tensor, factor)
    assert any("SHA-256" in line for line in check(*files))
    rewrite(files[1], lambda c: c.update(weights=read_safetensors(files[0])[1]))
    wrong = check(*files)
    assert wrong and not any("SHA-256" in line for line in wrong)


def test_catches_weights_that_are_no_numbers(files: Files) -> None:
    change_tensor(files[0], "layers.1.activation.shift", math.nan)
    rewrite(files[1], lambda c: c.update(weights=read_safetensors(files[0])[1]))
    assert check(*files) == ["layers.1.activation.shift: not finite"]
    change_tensor(files[0], "layers.0.tau", math.inf)
    assert main([str(f) for f in files]) == 2


def change_tensor(weights: Path, name: str, factor: float) -> None:
    data = weights.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors = load_file(weights)
    tensors[name] = tensors[name] * factor if math.isfinite(factor) else torch.full_like(tensors[name], factor)
    save_file(tensors, weights, metadata=header["__metadata__"])


def test_unreadable_files(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, certificate = files
    broken = tmp_path / "broken"
    broken.write_bytes(weights.read_bytes()[:-8])
    assert main([]) == 2
    assert main([str(tmp_path / "absent"), str(certificate)]) == 2
    assert main([str(broken), str(certificate)]) == 2
    assert main([str(weights), str(weights)]) == 2
    rewrite(certificate, lambda c: c.update(schema="another"))
    assert main([str(weights), str(certificate)]) == 2
    assert "schema" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_reads_every_float_type_as_torch_does(tmp_path: Path, dtype: torch.dtype) -> None:
    from pnp_lip.certificates.certify import hash_weights

    module = torch.nn.Conv2d(2, 3, 3).to(dtype)
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    tensors, hashes, _ = read_safetensors(tmp_path / "w.safetensors")
    assert hashes == hash_weights(module)
    assert np.array_equal(tensors["weight"], module.weight.detach().double().numpy())


@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (2, 5, 3, 3), (1, 1, 5, 5), (4, 4, 1, 3), (3, 2, 2, 4), (5, 4, 1, 1), (7, 4)])
def test_agrees_with_the_certifier(shape: tuple[int, ...], rtol: float) -> None:
    """Two unrelated proofs: what one calls an upper bound the other proves, and below the norm both fail."""
    scale = 10.0 ** (20 * (sum(shape) % 3 - 1))
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * scale
    bound = norm_bound(w, rtol=rtol)
    assert norm_is_at_most(w.numpy(), bound.upper * (1 + 1e-11))
    assert not norm_is_at_most(w.numpy(), bound.lower * (1 - 1e-9))
    assert method_of(w.numpy()) == bound.method.name


def test_zero_and_non_finite_weights() -> None:
    assert norm_is_at_most(np.zeros((2, 2, 3, 3)), 0.0)
    assert not norm_is_at_most(np.full((2, 2), np.nan), 1e9)


def test_a_layer_at_the_limit_is_verified(tmp_path: Path) -> None:
    """τ‖W‖² = 2 − 1e-6 needs, and gets, a certificate that is tight to 1e-6; not averaged layers are None."""
    torch.manual_seed(1)
    denoiser = GradientFlowDenoiser(channels=3, hidden_channels=4, dilations=(1,), padding_mode="zeros")
    layer = denoiser.layers[0]
    layer.tau.data = torch.tensor((2 - 4e-6) / norm_bound(layer.weight, rtol=1e-8).upper ** 2)
    assert certify(denoiser).nonexpansive
    save_denoiser(denoiser, tmp_path / "d.safetensors")
    assert check(tmp_path / "d.safetensors", tmp_path / "d.certificate.json") == []
