"""``pnp-lip demo``: blur a photograph, restore it with a proof, and show it beside total variation."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp_lip.command_line.common import (
    Commands,
    add_denoiser_option,
    add_rounds_option,
    get_annealer,
    get_denoiser,
    get_rounds,
    say,
)

if TYPE_CHECKING:
    from pnp_lip.command_line.scene import Scene
    from pnp_lip.solvers import ForwardBackward, Result

__all__ = ["add_command"]

NOISE = 0.01
TOLERANCE = 1e-4
SIDE = 96  # of the photographs on which strengths are chosen


def add_command(commands: Commands) -> None:
    """Add the sub-command."""
    command = commands.add_parser("demo", help="blur a photograph, restore it with a proof, show the picture")
    command.add_argument("--out", default="pnp-lip-demo", metavar="DIR", help="where to write (default: pnp-lip-demo)")
    command.add_argument("--quiet", action="store_true", help="no progress")
    add_rounds_option(command)
    add_denoiser_option(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The demonstration; writes demo.png, result.json and certificate.json."""
    from pnp_lip.certificates import certify
    from pnp_lip.command_line.scene import Scene, choose_strength, photograph, total_variation, validation_images
    from pnp_lip.images import psnr
    from pnp_lip.solvers import Anderson, ForwardBackward, licensed, refine

    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    tell = (lambda text: None) if options.quiet else say
    start = time.perf_counter()
    denoiser = get_denoiser(options.denoiser)
    rounds = {"total variation": 0, "pnp-lip": get_rounds(options.rounds, denoiser)}
    annealer = get_annealer(denoiser, rounds["pnp-lip"])  # total variation is solved once, and has no guide
    certificate = certify(denoiser)
    tell(f"the denoiser is certified: Lipschitz constant <= {certificate.lipschitz_upper:.6g}, "
         f"licensed solvers: {', '.join(licensed(certificate)) or 'none'} ({time.perf_counter() - start:.1f} s)")  # fmt: skip

    baseline = total_variation()
    scene = Scene.blurred(photograph("camera", 256), noise=NOISE)
    validation = [
        Scene.blurred(image.x, noise=NOISE, seed=seed) for seed, image in enumerate(validation_images(SIDE), start=1)
    ]
    common: dict[str, Any] = {"box": (0, 1), "tol": TOLERANCE, "scheme": Anderson()}
    priors: dict[str, Callable[[float], ForwardBackward]] = {
        "total variation": lambda s: ForwardBackward(baseline, sigma=s * NOISE, guarantee="report", **common),
        "pnp-lip": lambda s: ForwardBackward(denoiser, sigma=math.sqrt(s) * NOISE, **common),
    }

    def reconstruct(name: str, strength: float, on: Scene, **more: Any) -> tuple[Result, ...]:
        """The solutions with a prior of that strength, the last one the best."""
        return refine(priors[name](strength), on.y, on.physics, rounds=rounds[name], annealer=annealer, **more)

    results, tuning = {}, {}
    for name in priors:
        tell(f"choosing the strength of {name} on other photographs ...")
        strength, curve = choose_strength(lambda s, on, name=name: reconstruct(name, s, on)[-1].x, validation)  # type: ignore[misc]
        tuning[name] = {"strength": strength, "psnr_by_strength": {f"{s:g}": round(v, 3) for s, v in curve.items()}}
        tell(f"restoring with {name} ...")
        results[name] = reconstruct(name, strength, scene, reference=scene.x, progress=not options.quiet)
        tell(f"{name}: {psnr(results[name][-1].x, scene.x):.2f} dB, {results[name][-1].status}")
    record = write(out, scene, results, tuning, time.perf_counter() - start)
    certificate.save(out / "certificate.json")
    tell(str(results["pnp-lip"][-1]))
    say(f"wrote {out / 'demo.png'}: observed {record['psnr']['observed']:.2f} dB, "
        f"total variation {record['psnr']['total variation']:.2f} dB, pnp-lip {record['psnr']['pnp-lip']:.2f} dB")  # fmt: skip
    return 0


def write(
    out: Path, scene: Scene, results: dict[str, tuple[Result, ...]], tuning: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """Write demo.png and result.json, each in one step; returns the record."""
    from pnp_lip.command_line.figure import draw
    from pnp_lip.images import psnr, ssim, write_atomically

    images = {"observed": scene.y, **{name: result[-1].x for name, result in results.items()}}
    record = {
        "psnr": {name: psnr(image, scene.x) for name, image in images.items()},
        "ssim": {name: ssim(image, scene.x) for name, image in images.items()},
        "noise": scene.noise,
        "tuning": tuning,
        "seconds": seconds,
        **json.loads(results["pnp-lip"][-1].to_json()),
        "before": [json.loads(result.to_json()) for result in results["pnp-lip"][:-1]],
        "baseline": json.loads(results["total variation"][-1].to_json()),
    }
    with write_atomically(out / "demo.png") as path:
        draw(path, scene.x, images, record, results)
    with write_atomically(out / "result.json") as path:
        path.write_text(json.dumps(record, indent=1) + "\n")
    return record
