"""``pnp-lip ct`` with its defaults on scans that are not a plain half turn: a picture at least as good as Tikhonov's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pnp_lip.command_line import main
from pnp_lip.operators import FanBeam, FanBeamTomography, ParallelBeam, ParallelBeamTomography
from pnp_lip.operators.phantoms import ellipse_image

SIDE = 48
DISTANCES = {"source_distance": 2.2 * SIDE, "detector_distance": 1.3 * SIDE, "det_spacing": 1.6}  # like the HTC 2022 scanner
SCANS: dict[str, ParallelBeam | FanBeam] = {
    "limited-angle fan": FanBeam(np.arange(0, 60, 1.5), **DISTANCES),
    "half acquisition": ParallelBeam(np.arange(0, 360, 5.0), n_det=42, det_offset=13.0),
    "half acquisition, fan": FanBeam(np.arange(0, 360, 5.0), n_det=46, det_offset=16.8, **DISTANCES),
    "fan over 180 degrees": FanBeam(np.arange(0, 180, 2.5), **DISTANCES),
    "curved detector": FanBeam(np.arange(0, 360, 5.0), detector="curved", **DISTANCES),
    "80 of 182 bins": ParallelBeam(np.arange(0, 180, 2.5), n_det=30),
}


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    return float(20 * np.log10(truth.max() / np.sqrt(np.mean((image - truth) ** 2))))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCANS)
def test_the_picture_is_at_least_as_good_as_tikhonovs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scan, x = SCANS[name], 0.02 * ellipse_image(SIDE)[None, None].float()
    kind: Any = FanBeamTomography if isinstance(scan, FanBeam) else ParallelBeamTomography
    y = kind(scan, (1, SIDE, SIDE)).A(x)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    y = y + 0.01 * y.norm() * noise / noise.norm()
    np.savez("scan.npz", sinogram=y[0, 0].numpy(), angles=scan.degrees)
    options = ["--size", str(SIDE), "--offset", str(scan.det_offset), "--spacing", str(scan.det_spacing), "--out", "out"]
    if isinstance(scan, FanBeam):
        options += ["--fan", f"{scan.source_distance}:{scan.detector_distance}"]
        options += ["--curved"] if scan.detector == "curved" else []
    assert main(["ct", "scan.npz", *options, "--quiet"]) == 0
    record, truth = json.loads(Path("out/result.json").read_text()), x[0, 0].numpy()
    ours, tikhonov = (psnr(np.load(f"out/{image}.npy"), truth) for image in ("pnp-lip", "tikhonov"))
    assert record["guarantee"]["proved"]
    assert ours >= tikhonov, f"{ours:.2f} dB, Tikhonov {tikhonov:.2f}"
