"""PSNR of a shipped denoiser on a folder of images, at several noise levels.

``run(Config(...))`` returns the record; ``python -m pnp_lip.benchmarks.denoising --images DIR RECORD.json`` writes it.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import platform
import time
from pathlib import Path
from typing import Any

import torch

from pnp_lip.certificates import certify
from pnp_lip.images import IMAGE_SUFFIXES, psnr, read_image, ssim, write_atomically
from pnp_lip.pretrained import load_pretrained
from pnp_lip.version import __version__

__all__ = ["Config", "run"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured; ``sigmas`` in units of 1/255, ``seed`` the noise's."""

    images: str
    denoiser: str = "grey"
    sigmas: tuple[float, ...] = (5, 15, 25, 50)
    seed: int = 0


@torch.no_grad()
def run(config: Config) -> dict[str, Any]:
    """Mean PSNR and SSIM over the images of a folder, with what is needed to measure them again."""
    paths = sorted(p for p in Path(config.images).glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    denoiser = load_pretrained(config.denoiser)
    certificate = certify(denoiser)
    rows = []
    for sigma in config.sigmas:
        scores, start = [], time.process_time()
        for i, path in enumerate(paths):
            x = read_image(path, grey=denoiser.in_channels == 1)
            generator = torch.Generator().manual_seed(config.seed + i)
            y = x + sigma / 255 * torch.randn(x.shape, generator=generator)
            x_hat = denoiser(y, sigma / 255)
            scores.append((psnr(y, x), psnr(x_hat, x), ssim(x_hat, x)))
        noisy, restored, similarity = (sum(column) / len(scores) for column in zip(*scores, strict=True))
        rows.append({"sigma": sigma, "psnr_noisy": noisy, "psnr": restored, "ssim": similarity,
                     "cpu_seconds": time.process_time() - start})  # fmt: skip
        logger.info("sigma %g: %.2f dB", sigma, restored)
    return {
        "benchmark": "denoising",
        "config": {**dataclasses.asdict(config), "images": Path(config.images).name},
        "images": len(paths),
        "data_sha256": hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest(),
        "lipschitz_upper": certificate.lipschitz_upper,
        "averagedness": certificate.averagedness,
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "versions": {"pnp_lip": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": platform.machine(),
        "rows": rows,
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description="PSNR of a shipped denoiser on a folder of images")
    parser.add_argument("record")
    parser.add_argument("--images", required=True)
    parser.add_argument("--denoiser", default="grey")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    result = run(Config(options.images, options.denoiser))
    with write_atomically(options.record) as path:
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
