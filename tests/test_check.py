"""The independent checker: it agrees with the certifier, and catches every single falsified number or byte."""

from __future__ import annotations

import json
import math
import shutil
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
from pnp_lip.denoisers import GradientFlowDenoiser, add_guidance
from pnp_lip.layers import project
from pnp_lip.spectral import norm_bound

Files = tuple[Path, Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    denoiser = project(GradientFlowDenoiser(channels=3, hidden_channels=4, dilations=(1, 2)), limit=0.9)
    folder = tmp_path_factory.mktemp("saved")
    save_denoiser(denoiser, folder / "d.safetensors")
    return folder


@pytest.fixture
def files(saved: Path, tmp_path: Path) -> Files:
    names = ("d.safetensors", "d.certificate.json")
    weights, certificate = (Path(shutil.copy(saved / name, tmp_path)) for name in names)
    return weights, certificate


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
    assert "verified anew" in said and "rounding" in said and "not verified: the number of cells" in said
    assert all(word in said.split("not verified")[0] for word in ("kind", "padding", "smallest image", "method", "stated"))
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
    "kind": lambda c: c["layers"][1].update(kind="GradientFlowLinear"),
    "negative lower bound": lambda c: change_norm(c, 0, lower=(-1.0).hex()),
    "smallest image of all": lambda c: c.update(smallest_image=[1, 3]),
    "divisor of all": lambda c: c.update(divisible_by=[2, 2]),
    "statement": lambda c: c.update(stated=["slopes of an activation"]),
    "failure": lambda c: c.update(failures=["a layer"]),
    "negative slope": lambda c: c["layers"][1].update(slopes=[-1.0, 1.0]),
    "no rounding bound": lambda c: c.update(rounding=(0.0).hex()),
    "layer listed twice": lambda c: c["layers"].append(c["layers"][1]),
    "layer listed in place of another": lambda c: c["layers"].__setitem__(0, c["layers"][1]),
    "no layers": lambda c: c["layers"].clear(),
    "hash": lambda c: c["weights"].update({"layers.0.tau": "0" * 64}),
    "missing tensor": lambda c: c["weights"].pop("layers.0.activation.shift"),
    "unknown tensor": lambda c: c["weights"].update(extra="0" * 64),
}


UNREADABLE: dict[str, Callable[[dict[str, Any]], None]] = {
    **{
        f"upper bound {value!r}": lambda c, value=value: change_norm(c, 0, upper=value)
        for value in ("inf", "nan", "-inf", "1.5", " 0x1.0000000000000p+0", "0X1.0000000000000P+0", "", None, 1.0, True)
    },
    "step inf": lambda c: c["layers"][0].update(tau="inf"),
    "margin nan": lambda c: c["layers"][0].update(margin="nan"),
    "averagedness nan": lambda c: c["bound"].update(averagedness="nan"),
    "Lipschitz constant inf": lambda c: c["bound"].update(lipschitz="inf"),
    "rounding inf": lambda c: c.update(rounding="inf"),
    "truth values for slopes": lambda c: c["layers"][0].update(slopes=[False, True]),
    "three slopes": lambda c: c["layers"][0].update(slopes=[0.0, 1.0, 1.0]),
    "truth values for sizes": lambda c: change_norm(c, 0, smallest_image=[True, True]),
    "truth values for divisors": lambda c: c.update(divisible_by=[True, True]),
    "floats for sizes": lambda c: c.update(smallest_image=[1.0, 1.0]),
    "one size": lambda c: c.update(smallest_image=[1]),
    "a number for a truth value": lambda c: c["bound"].update(proximal=0),
    "cells": lambda c: change_norm(c, 0, cells=True),
    "witness": lambda c: change_norm(c, 0, witness=[0.0]),
    "range": lambda c: c["bound"].update(box=[0.0, "inf"]),
    "layers": lambda c: c.update(layers={"0": c["layers"]}),
    "layer": lambda c: c["layers"].__setitem__(0, "layers.0"),
    "statement in words": lambda c: c.update(stated="nothing"),
    "unknown field": lambda c: c.update(note=""),
    "unknown field of a layer": lambda c: c["layers"][0].update(note=""),
    "unknown field of a norm": lambda c: change_norm(c, 0, note=""),
    "missing field": lambda c: c.pop("stated"),
    "missing field of the bound": lambda c: c["bound"].pop("box"),
    "missing field of a norm": lambda c: c["layers"][1]["norm"].pop("divisible_by"),
    "hash of a number": lambda c: c["weights"].update({"layers.0.tau": 0}),
}


def entry(header: dict[str, Any], **changes: object) -> dict[str, Any]:
    """The header with the entry of the last tensor changed."""
    last = max((n for n in header if n != "__metadata__"), key=lambda n: tuple(header[n]["data_offsets"]))
    return {**header, last: {**header[last], **changes}}


def ends(header: dict[str, Any]) -> tuple[int, int]:
    return tuple(max(v["data_offsets"] for n, v in header.items() if n != "__metadata__"))


def twice(header: dict[str, Any], key: str) -> str:
    """The header's text with the first such key repeated."""
    plain = json.dumps(header)
    return plain.replace(f'"{key}": ', f'"{key}": {json.dumps(header.get(key, "F32"))}, "{key}": ', 1)


def metadata(header: dict[str, Any], **changes: object) -> dict[str, Any]:
    return {**header, "__metadata__": {**header["__metadata__"], **changes}}


Header = dict[str, Any] | str | bytes
MALFORMED: dict[str, Callable[[dict[str, Any], bytes], tuple[Header, bytes]]] = {
    "tensor twice": lambda h, b: (twice(h, "layers.0.tau"), b),
    "field of a tensor twice": lambda h, b: (twice(h, "dtype"), b),
    "metadata twice": lambda h, b: (twice(h, "__metadata__"), b),
    "configuration twice": lambda h, b: (metadata(h, config=twice(json.loads(h["__metadata__"]["config"]), "channels")), b),
    "configuration no object": lambda h, b: (metadata(h, config="[]"), b),
    "noise level no number": lambda h, b: (metadata(h, config=h["__metadata__"]["config"].replace("0.05", "Infinity")), b),
    "unknown metadata": lambda h, b: (metadata(h, dtype="float64"), b),
    "metadata no text": lambda h, b: (metadata(h, config=1), b),
    "metadata no object": lambda h, b: ({**h, "__metadata__": []}, b),
    "another format": lambda h, b: (metadata(h, format="pnp-lip gradient-step potential 1"), b),
    "trailing bytes": lambda h, b: (h, b + b"\0"),
    "missing bytes": lambda h, b: (h, b[:-1]),
    "uncovered bytes": lambda h, b: (entry(h, data_offsets=[e + 4 for e in ends(h)]), b + bytes(4)),
    "overlapping bytes": lambda h, b: (entry(h, data_offsets=[e - 4 for e in ends(h)]), b),
    "bytes used twice": lambda h, b: ({**h, "copy": h["layers.0.tau"]}, b),
    "outside the file": lambda h, b: (entry(h, data_offsets=[e + 10**6 for e in ends(h)]), b),
    "negative offsets": lambda h, b: (entry(h, data_offsets=[-4, 0]), b),
    "reversed offsets": lambda h, b: (entry(h, data_offsets=ends(h)[::-1]), b),
    "offsets of another type": lambda h, b: (entry(h, data_offsets=[float(e) for e in ends(h)]), b),
    "three offsets": lambda h, b: (entry(h, data_offsets=[*ends(h), 0]), b),
    "another size": lambda h, b: (entry(h, shape=[10**9]), b),
    "negative size": lambda h, b: (entry(h, shape=[-4, -9]), b),
    "truth value for a size": lambda h, b: (entry(h, shape=[True]), b),
    "another dtype": lambda h, b: (entry(h, dtype="F64"), b),
    "integers": lambda h, b: (entry(h, dtype="I32"), b),
    "unknown field": lambda h, b: (entry(h, stride=[1]), b),
    "no entry": lambda h, b: ({**h, "note": "text"}, b),
    "no object": lambda h, b: ("[]", b),
    "no UTF-8": lambda h, b: (json.dumps(h).encode("utf-16"), b),
    "no header": lambda h, b: ("", b""),
    "nested without end": lambda h, b: ("[" * 100_000, b),
}

BAD_CONFIG: list[tuple[str, object]] = [
    *(("dilations", value) for value in ([1, 0], [1, -1], [1, True], [1, 2.0], [], 1, "12", None)),
    *(("kernel_size", value) for value in (8, 0, -9, 9.0, True, "9", None)),
    *((name, value) for name in ("channels", "in_channels", "hidden_channels") for value in (0, -1, 3.0, True, "3", None)),
    *(("padding_mode", value) for value in ("reflect", "", 0, None)),
    *(("default_sigma", value) for value in (-0.1, "0.05", True, None)),
    *(("guidance", value) for value in (False, 1, "yes")),
    *(("guide_network", value) for value in ([8], [8, 1], [0, 3], [8, 10**9], [True, 3], 8)),
    *(("step_fraction", value) for value in (0.5,)),
    *(("dilation", value) for value in (1,)),
]

TAU, WEIGHT, SCALE = "layers.0.tau", "layers.1.weight", "layers.0.activation.log_scale"
UNFIT: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "extra tensor": (lambda t: t.update({"layers.0.bias": torch.zeros(4)}), "layers.0.bias: not one of the network's"),
    "tensors of another layer": (lambda t: t.update({"layers.2.weight": t[WEIGHT].clone()}), "layers.2.weight: not one of"),
    "guidance without guides": (lambda t: t.update({"guidance.0.offset": torch.zeros(4)}), "guidance.0.offset: not one of"),
    "missing tensor": (lambda t: t.pop(WEIGHT), "layers.1.weight: missing"),
    "another kernel": (
        lambda t: t.update({WEIGHT: t[WEIGHT][..., :7, :7].contiguous()}),
        "of shape (4, 3, 7, 7), not (4, 3, 9, 9)",
    ),
    "fewer filters": (lambda t: t.update({WEIGHT: t[WEIGHT][:2].contiguous()}), "of shape (2, 3, 9, 9)"),
    "transposed": (lambda t: t.update({WEIGHT: t[WEIGHT].transpose(0, 1).contiguous()}), "of shape (3, 4, 9, 9)"),
    "step of another shape": (lambda t: t.update({TAU: t[TAU].reshape(1)}), "of shape (1,), not ()"),
    "fewer knots": (lambda t: t.update({SCALE: t[SCALE][:5].contiguous()}), "of shape (5, 4), not (6, 4)"),
    "two dtypes": (lambda t: t.update({TAU: t[TAU].double()}), "float32, float64 dtypes, not of one"),
    "thresholds that overflow": (lambda t: t[SCALE].fill_(200), "layers.0: its numbers leave the range of float32"),
    "thresholds that vanish": (lambda t: t[SCALE].fill_(-80), "layers.0: its numbers leave the range of float32"),
    "shifts that overflow": (lambda t: t["layers.0.activation.shift"].fill_(1e38), "layers.0: "),
    "thresholds that are none": (lambda t: t[SCALE][0].fill_(math.nan), "layers.0.activation.log_scale"),
    "infinite weights": (lambda t: t[WEIGHT][0].fill_(-math.inf), "layers.1.weight: not finite"),
}


@pytest.mark.parametrize("name", list(FALSIFICATIONS))
def test_catches_a_falsified_certificate(files: Files, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(files[1], FALSIFICATIONS[name])
    assert check(*files)
    assert main([str(f) for f in files]) == 1
    assert "NOT VERIFIED" in capsys.readouterr().out


@pytest.mark.parametrize(("tensor", "factor"), [("layers.1.weight", 1.1), ("layers.0.tau", 1.2), ("layers.0.tau", -1.0)])
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
    assert "layers.0.tau: not finite" in check(*files)


@pytest.mark.parametrize("name", list(UNREADABLE))
def test_refuses_a_certificate_that_is_not_one(files: Files, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A float that is none, a truth value for a number, a field too many: no claim is read out of such a file."""
    rewrite(files[1], UNREADABLE[name])
    assert main([str(f) for f in files]) == 2
    assert "could not be read: ValueError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"dtype": "float32"', '"dtype": "float32", "dtype": "float32"'),
        ('"path": "layers.1"', '"path": "layers.0", "path": "layers.1"'),
        ('"slopes": [0.0, 1.0]', '"slopes": [0.0, NaN]'),
        ('"slopes": [0.0, 1.0]', '"slopes": [0.0, 1e999]'),
        ('"slopes": [0.0, 1.0]', '"slopes": [-Infinity, 1.0]'),
        ('"failures": []', '"failures": ' + "[" * 100_000),
        ('{"schema"', '[{"schema"'),
    ],
)
def test_refuses_json_with_two_meanings(files: Files, old: str, new: str) -> None:
    text = json.dumps(json.loads(files[1].read_text()))
    assert old in text
    files[1].write_text(text.replace(old, new))
    assert main([str(f) for f in files]) == 2


@pytest.mark.parametrize("name", list(MALFORMED))
def test_refuses_a_malformed_file_of_weights(files: Files, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Two readers of such a file might see other tensors than the ones that were hashed."""
    data = files[0].read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = MALFORMED[name](json.loads(data[8 : 8 + length]), data[8 + length :])
    encoded = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    files[0].write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)
    assert main([str(f) for f in files]) == 2
    assert "could not be read" in capsys.readouterr().err


@pytest.mark.parametrize(("field", "value"), BAD_CONFIG)
def test_refuses_a_configuration_of_no_network(files: Files, field: str, value: object) -> None:
    def change(config: dict[str, Any]) -> None:
        if value is None:
            del config[field]
        config.update({} if value is None else {field: value})

    write_weights(files, config=change)
    assert main([str(f) for f in files]) == 2


@pytest.mark.parametrize("name", list(UNFIT))
def test_catches_tensors_that_are_not_the_networks(files: Files, name: str) -> None:
    """The hashes fit: only what the network is can object."""
    change, word = UNFIT[name]
    write_weights(files, tensors=change)
    wrong = check(*files)
    assert word in wrong[0] and all(word in line or "rounding" in line for line in wrong)


@pytest.mark.parametrize("attached", [{"guide_network": [8, 2]}, {"centred": True}, {"in_channels": 4}])
def test_catches_configurations_that_the_loader_refuses(files: Files, attached: dict[str, object]) -> None:
    write_weights(files, config=lambda config: config.update(attached))
    assert any("names no network" in line for line in check(*files))


def test_guided_denoisers_are_verified(tmp_path: Path) -> None:
    torch.manual_seed(0)
    denoiser = add_guidance(GradientFlowDenoiser(hidden_channels=4, dilations=(1,)), centred=True)
    paths = tmp_path / "d.safetensors", tmp_path / "d.certificate.json"
    save_denoiser(project(denoiser, limit=0.9), paths[0])
    assert check(*paths) == []
    write_weights(paths, tensors=lambda t: t.pop("guidance.0.share_offset"))
    assert check(*paths) == ["guidance.0.share_offset: missing"]


def test_names_in_a_file_cannot_write_lines(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    write_weights(files, tensors=lambda t: t.update({"x\nverified anew \u001b[2J": torch.zeros(1)}))
    assert main([str(f) for f in files]) == 1
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "\x1b" not in said


def write_weights(
    files: Files,
    *,
    tensors: Callable[[dict[str, torch.Tensor]], object] = len,
    config: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Change tensors or the configuration, and make the certificate's hashes and dtype fit."""
    data = files[0].read_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    held, settings = load_file(files[0]), json.loads(metadata["config"])
    tensors(held)
    if config is not None:
        config(settings)
    save_file(held, files[0], metadata={**metadata, "config": json.dumps(settings)})
    rewrite(files[1], lambda c: c.update(weights=read_safetensors(files[0])[1]))


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
    tensors, hashes, _, dtypes = read_safetensors(tmp_path / "w.safetensors")
    assert hashes == hash_weights(module) and dtypes == str(dtype).removeprefix("torch.")
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
