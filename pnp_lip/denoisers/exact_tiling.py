"""deepinv.distributed without seams: tiles whose windows show all that their pixels depend on."""

from collections.abc import Sequence

from deepinv.distributed.strategies import DistributedSignalStrategy
from torch import Tensor, nn

from pnp_lip.denoisers.gradient_flow_denoiser import GradientFlowDenoiser
from pnp_lip.denoisers.tiling import cut, windows
from pnp_lip.denoisers.wrappers import ClippedDenoiser, RelaxedDenoiser
from pnp_lip.errors import InputError, ShapeError

__all__ = ["ExactTiling", "network_of"]


class ExactTiling(DistributedSignalStrategy):  # type: ignore[misc]
    """A tiling for ``deepinv.distributed`` that computes D(x), so that the certificate of D holds on any number of processes.

    deepinv's own tiling reflects the image at its border and computes tiles of what results: another map, which may have a
    Lipschitz constant above 1. Here each tile of ``tile`` rows and columns is computed from a window that shows all pixels
    within the reach of D and ends only where the image does. Equal to D(x) to the bit where ``GradientFlowDenoiser.tiled``
    is. It cannot see which denoiser ``distribute`` is given: that must be this one. Raises InputError for denoisers of which
    the reach is not known, ShapeError for images of another size.

    >>> import torch
    >>> from deepinv.distributed import DistributedContext, distribute
    >>> denoiser, x = GradientFlowDenoiser(channels=4, hidden_channels=4, dilations=(1, 1)), torch.rand(1, 1, 99, 80)
    >>> with DistributedContext() as processes, torch.no_grad():
    ...     everywhere = distribute(denoiser, processes, tiling_strategy=ExactTiling(denoiser, x.shape, tile=32))
    ...     torch.allclose(everywhere(x, 0.1), denoiser(x, 0.1), atol=1e-6)
    True
    """

    def __init__(self, denoiser: nn.Module, img_size: Sequence[int], *, tile: int = 512) -> None:
        super().__init__(img_size)
        if not isinstance(tile, int) or tile < 1:
            raise InputError(f"`tile` is a number of rows and columns and must be at least 1; got {tile}.")
        network = network_of(denoiser)
        reach, circular = sum(network.reaches), network.padding_mode == "circular"
        rows, columns = (windows(size, tile, reach, circular) for size in self.img_size[-2:])
        self.windows = [(row, column) for row in rows for column in columns]

    def get_num_patches(self) -> int:
        """The number of tiles."""
        return len(self.windows)

    def get_local_patches(self, x: Tensor, local_indices: list[int]) -> list[tuple[int, Tensor]]:
        """The windows of these tiles."""
        if x.shape[-2:] != self.img_size[-2:]:
            raise ShapeError(f"this tiling is for images of {tuple(self.img_size[-2:])} pixels; got {tuple(x.shape)}.")
        return [(i, cut(x, self.windows[i][0][1], self.windows[i][1][1])) for i in local_indices]

    def apply_batching(self, patches: list[Tensor], max_batch_size: int | None = None) -> list[Tensor]:
        """Each window by itself: D works image by image, and a noise level for each image stays beside its own."""
        return patches

    def unpack_batched_results(self, processed_batches: list[Tensor], num_patches: int) -> list[Tensor]:
        """What ``apply_batching`` left as it was."""
        return processed_batches

    def reduce_patches(self, out_tensor: Tensor, local_pairs: list[tuple[int, Tensor]]) -> None:
        """Write the tiles into the image, each pixel once."""
        for i, patch in local_pairs:
            (kept_rows, rows), (kept_columns, columns) = self.windows[i]
            found, (top, left) = patch[..., kept_rows, kept_columns], (rows[kept_rows].start, columns[kept_columns].start)
            out_tensor[..., top : top + found.shape[-2], left : left + found.shape[-1]] = found


def network_of(denoiser: object) -> GradientFlowDenoiser:
    """The network whose reach is that of ``denoiser``: ``relax`` and clipping act pixel by pixel. InputError if there is none."""
    if type(denoiser) is RelaxedDenoiser or type(denoiser) is ClippedDenoiser:
        return network_of(denoiser.denoiser)
    if type(denoiser) is GradientFlowDenoiser:  # a subclass may look further
        return denoiser
    raise InputError(f"expected a GradientFlowDenoiser, relaxed or clipped or not; got {type(denoiser).__name__}.")
