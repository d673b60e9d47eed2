"""What determines a training run."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from pnp_lip.errors import InputError

__all__ = ["LARGEST_PSF", "PER_IMAGE", "SIGMA_RANGE", "Part", "PatchSettings", "ProblemSettings", "TrainingSettings"]

Part = Literal["denoiser", "guidance", "guide network"]

PER_IMAGE = 4  # patches of each image in a batch, by which its error is known (docs/notebook/training.md)
SIGMA_RANGE = (0.5 / 255, 55 / 255)  # noise levels of training, on the scale of images in [0, 1]
LARGEST_PSF = 23  # pixels a side, of the random blurs


@dataclasses.dataclass(frozen=True)
class PatchSettings:
    """Which patches the images of a step are: ``batch`` of them, ``size`` pixels a side, four of each photograph.

    Every photograph takes part reduced by each of the factors ``scales``. With ``texture_rule`` only one in eight of the
    smooth patches is kept. Raises InputError for numbers that are too small, and for a batch that is no multiple of four.
    """

    batch: int = 8
    size: int = 64
    scales: tuple[int, ...] = (1, 2)
    texture_rule: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1 or self.size < 8:
            raise InputError(f"a batch holds at least 1 patch, at least 8 wide; got {self.batch} of {self.size}.")
        if self.batch % PER_IMAGE:
            raise InputError(
                f"a batch of {self.batch} patches cannot hold {PER_IMAGE} of each image; choose a multiple."
            )
        if not self.scales or min(self.scales) < 1:
            raise InputError(f"`scales` are factors of at least 1 by which photographs are reduced; got {self.scales}.")


@dataclasses.dataclass(frozen=True)
class ProblemSettings:
    """How many steps train the fixed point of plug-and-play forward-backward, and on what.

    Of all steps the share ``equilibrium`` does; of its problems the share ``scans`` are scans, the others blurs; of the guides
    of blurs the share ``annealed`` has been improved as ``pnp_lip.solvers.Anneal`` does. Raises InputError for a share
    outside [0, 1].
    """

    equilibrium: float = 0.0
    scans: float = 0.4
    annealed: float = 0.0

    def __post_init__(self) -> None:
        for name, share in dataclasses.asdict(self).items():
            if not 0 <= share <= 1:
                raise InputError(f"`{name}` is a share, from 0 to 1; got {share}.")


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """What determines a training run, besides the network and the photographs.

    ``learning_rate`` is the largest one. ``part`` says what learns: the "denoiser", its "guidance", or its "guide network";
    the last two leave the denoiser itself as it is, to the bit. A checkpoint is written every ``checkpoint_every`` steps,
    a row of the log every ``validate_every``. Raises InputError for values outside their ranges.
    """

    steps: int = 8_000
    learning_rate: float = 3e-3
    part: Part = "denoiser"
    patches: PatchSettings = PatchSettings()
    problems: ProblemSettings = ProblemSettings()
    seed: int = 0
    checkpoint_every: int = 500
    validate_every: int = 2_000

    def __post_init__(self) -> None:
        if self.part not in get_args(Part):
            raise InputError(f"`part` is one of {', '.join(get_args(Part))}; got {self.part!r}.")
        if min(self.steps, self.checkpoint_every, self.validate_every) < 1 or not self.learning_rate > 0:
            raise InputError("steps and the two intervals must be at least 1, and learning_rate must be positive.")
        if self.problems.equilibrium > 0 and self.patches.size <= LARGEST_PSF:
            raise InputError(
                f"random blurs are up to {LARGEST_PSF} pixels wide: the patches of equilibrium training must be wider; got "
                f"{self.patches.size}."
            )
        if self.problems.annealed and self.part == "denoiser":
            raise InputError("`annealed` says which guides are learned from; choose `part` guidance or guide network.")
