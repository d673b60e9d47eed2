"""One call from data to a restored image: every choice that the commands make is made here."""

import copy
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from deepinv.physics import Denoising as Identity
from numpy.typing import NDArray
from torch import Tensor

from pnp_lip.colour import from_planes, planes
from pnp_lip.denoisers import GradientFlowDenoiser
from pnp_lip.errors import InputError
from pnp_lip.fingerprint import hash_tensor
from pnp_lip.frame import Data, Frame, plain
from pnp_lip.noise import estimate_noise, shows_jpeg_blocks
from pnp_lip.operators import Blur, check_psf, parse_psf
from pnp_lip.potentials import GradientStepPotential, Potential
from pnp_lip.pretrained import TORCH_SUFFIXES, load_denoiser, load_pretrained
from pnp_lip.progress import showing, stepwise
from pnp_lip.solvers import Anderson, Denoising, ForwardBackward, Result, Solver, Variational
from pnp_lip.solvers.variational import SUGGESTED
from pnp_lip.version import __version__

__all__ = ["DEFAULTS", "Learned", "Restoration", "deblur", "denoise", "device_of", "get_certified", "prior_of", "solver_of",
           "suggested", "weights_hash"]  # fmt: skip

Learned: TypeAlias = GradientFlowDenoiser | Potential

# What each command takes unless it is told.
DEFAULTS = {"deblur": "gradient-step", "denoise": "ridge", "ct": "ridge", "demo": "gradient-step"}

STRENGTH = 0.25  # of a denoiser, unless the user states one: it assumes the noise level √S·noise
TILE = 2048  # pixels a side of the windows in which one pass of a denoiser works
TOL_OF_DENOISING = 2e-4  # with a potential: 1e-6 changes the PSNR of six photographs at σ·255 = 5 and 25 by at most 0.01 dB
START = "tiny"  # whose pass, from which the minimiser is sought, saves a fifth of the time
TOL_OF_STEP = 1e-5  # with a gradient-step potential: 1e-6 changes the mean PSNR of twelve deblurring problems by 0.007 dB
# Luma over all channels, of estimates of the noise. White noise of 0.001 to 0.04 in blurred photographs gave at most 1.3, and in
# sharp ones from 0.01 on at most 1.4; JPEG with colours at half the resolution gave 1.5 and more, mostly 3 to 20.
BLURRED_RATIO, SHARP_RATIO = 1.4, 2.0
TOO_LOW = 1.5  # what the image shows over what was stated, from which on that is said


@dataclasses.dataclass(frozen=True, eq=False)
class Restoration:
    """A restored ``image`` of the data's shape, type and range, and beside it the ``result`` that says what is proved.

    The image is a plain array or tensor, as the data were, which every library takes; an attribute on it would be lost by the
    first sum or cast. So the two stand side by side; ``numpy.asarray(restoration)`` is the image, too.

    ``result`` is None for one pass without a solver; ``noise`` the level that was stated or estimated, in the data's units;
    ``notes`` what was assumed, mended or lost, a line each; ``record`` what the run depended on, in plain data.
    """

    image: Data
    result: Result | None
    noise: float | None
    notes: tuple[str, ...]
    record: Mapping[str, object]

    def __array__(self, dtype: np.dtype[np.generic] | None = None, copy: bool | None = None) -> NDArray[np.generic]:
        array = self.image if isinstance(self.image, np.ndarray) else plain(self.image).numpy()
        return np.array(array, dtype=dtype, copy=copy) if copy else np.asarray(array, dtype=dtype)

    def __str__(self) -> str:
        return "\n".join([*self.notes, *([] if self.result is None else [str(self.result)])])

    def to_json(self, **more: object) -> str:
        """The record, ``more`` entries, and the result, as JSON text."""
        found = {} if self.result is None else json.loads(self.result.to_json())
        return json.dumps({**self.record, **more, "notes": self.notes, **found}, indent=1)


def deblur(
    y: Data,
    psf: Data | str,
    noise: float | None = None,
    *,
    denoiser: str | Learned | None = None,
    strength: float | None = None,
    padding: str = "valid",
    step: float | None = None,
    tol: float | None = None,
    max_iter: int = 1000,
    value_range: tuple[float, float] | None = None,
    correlated: bool | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> Restoration:
    """Restore a blurred image whose point spread function is known: minimise the misfit and what the prior says.

    x̂ is a critical point of ½‖Ax − y‖² + S R_σ(x) on [0, 1], R a gradient-step potential, S the ``strength``, σ the ``noise``;
    of a ridge potential R_{2σ}; with a denoiser D, x̂ = fix D(x − γAᵀ(Ax − y), √S σ). A colour image is restored along three
    orthogonal axes (``colour.planes``, of which ``result`` speaks), each with the noise that it has there, and is then clipped
    to [0, 1]; a denoiser of colours takes it whole.

    ``y``: numpy or torch, (H, W), (H, W, 3), (3, H, W), (B, C, H, W) or (B, H, W, C), of any real type (``Frame`` says what its
    black and white are, unless ``value_range`` does); an alpha channel passes through. ``psf``: (h, w), centred and scaled by
    ``check_psf``, or words that ``parse_psf`` reads ("motion:12:35"). ``noise``: its standard deviation in the units of y, of
    8 and 16 unsigned bits as a fraction of white; by default estimated. ``correlated`` says that y was compressed or resampled,
    which such an estimate must know; by default colours and JPEG blocks tell. ``denoiser``: a name, a file or an object.
    ``padding``: what is beyond the border, "valid" for unknown. ``device``: "auto": a GPU.

    Raises InputError or ShapeError for data, a PSF or settings that cannot be meant.

    >>> y = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    >>> found = deblur(y, "gaussian:0.6", 0.05, denoiser="tiny", tol=1e-2, device="cpu")
    >>> found.image.shape, found.result.status, found.result.guarantee.proved
    (torch.Size([1, 1, 20, 20]), 'converged', True)
    """
    if strength is not None and not 0 < strength < math.inf:
        raise InputError(f"the strength must be a positive number; got {strength}.")
    kernel, mended = check_psf(parse_psf(psf) if isinstance(psf, str) else psf)
    frame = Frame.of(y, value_range, device_of(device))
    prior, name = prior_of(denoiser, DEFAULTS["deblur"])
    prior = placed(prior, frame.y.device)
    images, factors = planes(frame.y, prior.in_channels)
    (h, w), (rows, columns) = kernel.shape, images.shape[2:]
    if h > rows or w > columns:
        raise InputError(f"the PSF ({h} x {w}) is larger than the image ({rows} x {columns}); crop it to where it is not zero.")
    level, notes = level_of(noise, frame, correlated, blurred=True)
    extra = (h - 1, w - 1) if padding == "valid" else (0, 0)  # a photograph ends before its blur does
    physics = Blur(kernel, (images.shape[1], rows + extra[0], columns + extra[1]), padding=padding, device=images.device)
    share = STRENGTH if strength is None else strength
    sigma, weight = suggested(prior, level, strength) if isinstance(prior, Potential) else (math.sqrt(share) * level, 1.0)
    solver = solver_of(prior, sigma=sigma * factors, step=step, tol=tol, weight=weight)
    with showing(progress):
        result = solver.solve(images, physics, max_iter=max_iter)
    top, left = (more // 2 for more in extra)  # where the tap (h//2, w//2) of the first datum lies
    x = from_planes(result.x[..., top : top + rows, left : left + columns], frame.y.shape[1]).clamp_(0, 1)
    used = {"psf_sha256": hash_tensor(kernel), "psf_shape": [h, w], "padding": padding}
    return finish(frame, x, result, level, noise, (prior, name), (*mended, *notes), used)


def denoise(
    y: Data,
    noise: float | None = None,
    *,
    denoiser: str | Learned | None = None,
    tile: int | None = None,
    value_range: tuple[float, float] | None = None,
    correlated: bool | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> Restoration:
    """Remove Gaussian noise: by default the minimiser with a ridge potential; with a denoiser one pass.

    x̂ = argmin ½‖x − y‖² + R_σ(x) on [0, 1], found from one pass of ``tiny``; with a denoiser x̂ = D(y, σ)

    Arguments and errors are those of ``deblur``. ``tile`` saves memory by windows of so many pixels a side, with a denoiser;
    ``result`` then is None.

    >>> found = denoise(np.full((16, 16), 128, np.uint8), 0.1, denoiser="tiny", device="cpu")
    >>> found.image.shape, found.image.dtype, found.result.guarantee.proved
    ((16, 16), dtype('uint8'), True)
    """
    place = device_of(device)
    frame = Frame.of(y, value_range, place)
    prior, name = prior_of(denoiser, DEFAULTS["denoise"])
    prior = placed(prior, place)
    images, factors = planes(frame.y, prior.in_channels)
    if isinstance(prior, GradientStepPotential):
        raise InputError("a gradient-step potential deblurs: it is too flat to remove noise alone. Take ridge, grey or tiny.")
    if tile is not None and isinstance(prior, Potential):
        raise InputError("--tile belongs to a denoiser, such as grey or tiny.")
    level, notes = level_of(noise, frame, correlated, blurred=False)
    sigma, result = level * factors, None
    with showing(progress):
        if isinstance(prior, Potential):
            start = None
            if isinstance(first := placed(get_certified(START), place), GradientFlowDenoiser) and prior.in_channels == 1:
                start = first.tiled(images, sigma, tile=TILE)
            result = solver_of(prior, sigma=sigma, tol=TOL_OF_DENOISING).solve(images, Identity(), x0=start)
        else:
            with stepwise("denoise", len(images) * len(prior.flows)):
                if tile is None and max(images.shape[-2:]) <= TILE:
                    result = Denoising(prior, sigma=sigma).solve(images, Identity())
                else:
                    x = prior.tiled(images, sigma, tile=TILE if tile is None else tile)
    x = from_planes(x if result is None else result.x, frame.y.shape[1])
    x = x.clamp_(0, 1) if isinstance(prior, Potential) else x
    return finish(frame, x, result, level, noise, (prior, name), notes, {})


def finish(
    frame: Frame, x: Tensor, result: Result | None, level: float, stated: float | None, prior: tuple[Learned, str],
    notes: tuple[str, ...], used: Mapping[str, object],
) -> Restoration:  # fmt: skip
    """The image as the data were, with everything that the run depended on."""
    image, lost = frame.back(x)
    noise = level * frame.unit
    record = {
        "pnp_lip": __version__,
        "noise": noise,
        "noise_is": "estimated" if stated is None else "stated",
        "range": [frame.low, frame.high],
        "denoiser": prior[1],
        "weights_sha256": weights_hash(prior[0]),
        **used,
    }
    return Restoration(image, result, noise, (*frame.notes, *notes, *lost), record)


def level_of(stated: float | None, frame: Frame, correlated: bool | None, *, blurred: bool) -> tuple[float, tuple[str, ...]]:
    """The noise level on [0, 1] that is assumed, and what to say: the stated one, or else what the image shows.

    Of a blurred image never much less than it shows: a prior makes structure of noise that nobody told it of, and at half
    the level 9 dB were lost in a JPEG of quality 95, 2 dB with white noise. A ``strength`` below 1/4 makes a result sharper.
    """
    if stated is None:
        level, correlated = shown_level(frame.y, correlated, blurred=blurred)
        why = ", safely high, as compression or resampling has smoothed the noise" if correlated else ""
        return level, (f"noise level {level * frame.unit:.2g}, estimated from the image{why}; pass --noise if you know it",)
    if not (math.isfinite(stated) and stated >= 0):
        raise InputError(f"the noise level must be a finite standard deviation that is not negative; got {stated}.")
    if stated > frame.unit:
        advice = " For 8-bit levels divide by 255." if frame.unit == 1 else ""
        raise InputError(f"the noise level is on the scale of images in [0, {frame.unit:g}]; got {stated}.{advice}")
    level = stated / frame.unit
    try:
        shown = shown_level(frame.y, correlated, blurred=True)[0] if blurred else level
    except InputError:  # too small a picture shows nothing
        shown = level
    if shown <= TOO_LOW * level:
        return level, ()
    return shown, (f"the image shows a noise level of {shown * frame.unit:.2g}, more than stated, which is assumed",)


def shown_level(y: Tensor, correlated: bool | None, *, blurred: bool) -> tuple[float, bool]:
    """An estimate of the noise level that is not too low where noise is not white, and whether it is not."""
    white = float(estimate_noise(y).max())
    if correlated is None:
        luma = float(estimate_noise(y, compressed=True).max())
        correlated = luma > (BLURRED_RATIO if blurred else SHARP_RATIO) * white or shows_jpeg_blocks(y)
    return (float(estimate_noise(y, compressed=True, blurred=blurred).max()) if correlated else white), correlated


def device_of(device: str | torch.device) -> torch.device:
    """ "auto" is the first GPU that torch can use, or else the processor. Raises InputError for an unknown or missing device."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {device} cannot be used ({str(error).splitlines()[0]}).") from error
    return torch.device(device)


def placed(prior: Learned, device: torch.device) -> Learned:
    """The prior on a device; somebody's own object stays where it is."""
    here = next(iter(prior.state_dict().values())).device
    return prior if here == device else copy.deepcopy(prior).to(device)


def weights_hash(prior: Learned) -> str:
    """SHA-256 over the names and the hashes of all weights."""
    text = "".join(f"{name} {hash_tensor(tensor)}\n" for name, tensor in sorted(prior.state_dict().items()))
    return hashlib.sha256(text.encode()).hexdigest()


def get_certified(name: str, *, require_certified: bool = True) -> Learned:
    """A denoiser or a potential by its name or from a file, the same object again as long as the file is the same.

    Raises InputError for an unknown name, CertificateError for weights that do not certify, unless
    ``require_certified=False``.
    """
    path = Path(name)
    stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
    return get_unchanged(name, stamp, require_certified)


@functools.lru_cache(maxsize=4)
def get_unchanged(name: str, stamp: tuple[int, int] | None, require_certified: bool) -> Learned:
    """``get_certified`` of a file of this ``stamp``: many images share one proof."""
    if Path(name).suffix in (".safetensors", *TORCH_SUFFIXES):
        return load_denoiser(name, require_certified=require_certified)
    return load_pretrained(name)


def prior_of(denoiser: str | Learned | None, default: str) -> tuple[Learned, str]:
    """The denoiser or potential, or the ``default``, and its name. Raises InputError for what is neither."""
    name = default if denoiser is None else denoiser
    prior = get_certified(name) if isinstance(name, str) else name
    if not isinstance(prior, Learned):
        raise InputError(f"`denoiser` is a name, a file, a GradientFlowDenoiser or a potential; got {prior!r:.80}.")
    return prior, name if isinstance(name, str) else type(prior).__name__


def suggested(potential: Potential, noise: float, weight: float | None) -> tuple[float, float]:
    """The σ and the λ of a reconstruction, unless the user states the ``weight``."""
    factor, suggestion = SUGGESTED[type(potential)]
    return factor * noise, suggestion if weight is None else weight


def solver_of(
    prior: Learned,
    *,
    tol: float | None = None,
    sigma: float | Tensor | None = None,
    step: float | None = None,
    weight: float = 1.0,
) -> Solver | Variational:
    """Forward-backward with a denoiser, or the objective f + λR_σ of a potential, λ the ``weight``, for images in [0, 1].

    ``tol`` defaults to 1e-4 with a denoiser, to 1e-5 with a gradient-step potential, else to that of ``Variational``. Raises
    InputError for a step with a potential.
    """
    if isinstance(prior, GradientFlowDenoiser):
        return ForwardBackward(prior, sigma=sigma, step=step, box=(0, 1), scheme=Anderson(), tol=1e-4 if tol is None else tol)
    if step is not None:
        raise InputError("--step belongs to a denoiser; a potential finds its steps.")
    if tol is None and isinstance(prior, GradientStepPotential):
        tol = TOL_OF_STEP
    solver = Variational(prior, sigma=sigma, weight=weight, box=(0.0, 1.0))
    return solver if tol is None else dataclasses.replace(solver, tol=tol)
