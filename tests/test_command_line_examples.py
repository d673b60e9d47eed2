"""Every example of every help page runs, in order, at the size of a toy."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from pnp_lip import load_pretrained, save_denoiser
from pnp_lip.benchmarks.photographs import photograph
from pnp_lip.command_line import main
from pnp_lip.command_line.examples import EXAMPLES
from pnp_lip.command_line.main import parser
from pnp_lip.operators import ParallelBeam, ParallelBeamTomography, gaussian_psf
from pnp_lip.operators.phantoms import ellipse_image
from pnp_lip.pictures import write_image

# What makes each example small: the last of two options counts.
SMALL = {
    "demo": ("--denoiser", "tiny", "--quiet"),
    "denoise": ("--denoiser", "tiny", "--quiet"),
    "deblur": ("--denoiser", "tiny", "--tol", "1e-2", "--quiet"),
    "ct": ("--size", "16", "--tol", "1e-2", "--quiet", "--denoiser", "tiny", "--sigma", "0.05"),
    "certify": (),
    "train": ("--steps", "1", "--batch", "4", "--patch", "39", "--device", "cpu"),
    "bench speed": ("--quick", "--side", "16", "--repeats", "1", "--priors", "tiny"),
    "bench report": (),
    "experiment": ("--quiet",),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_workers: None) -> Path:
    """The files that the examples name."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in range(2):
        write_image(f"photos/{i}.jpg", photograph("camera", 256)[..., 60 * i : 60 * i + 24, 70:94].repeat(1, 3, 1, 1))
    write_image("photo.jpg", photograph("camera", 256)[..., 90:122, 70:102])
    write_image("psf.png", gaussian_psf(1.0, size=7)[None] / gaussian_psf(1.0, size=7).max())
    angles = np.arange(0, 180, 1.0)
    y = ParallelBeamTomography(ParallelBeam(angles, n_det=22), (1, 16, 16)).A(ellipse_image(16)[None, None].float())[0, 0].numpy()
    np.save("sinogram.npy", y)
    np.savez("scan.npz", sinogram=y, angles=2 * angles)
    save_denoiser(load_pretrained("tiny"), "mine.safetensors")
    return tmp_path


def test_every_command_has_examples_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    commands = next(action for action in parser()._actions if action.choices is not None).choices
    assert set(EXAMPLES) == set(commands)
    for name in commands:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        said = capsys.readouterr().out
        assert all(line in said.splitlines() for line in (f"  {example}" for example in EXAMPLES[name]))


SLOW = ("demo", "ct", "train", "bench", "experiment")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in EXAMPLES])
def test_examples_run(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for example in EXAMPLES[name]:
        program, *words = shlex.split(example)
        small = next(options for start, options in SMALL.items() if " ".join(words).startswith(start))
        assert program == "pnp-lip" and main([*words, *small]) in (0, 3), example
