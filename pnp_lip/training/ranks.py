"""Training in several processes, one for each GPU, started by torch's own launcher (torchrun)."""

import contextlib
import os
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from pnp_lip.errors import InputError

__all__ = ["average_gradients", "join_ranks", "rank_and_size"]


@contextlib.contextmanager
def join_ranks(device: str) -> Iterator[str]:
    """Inside the context the processes that torchrun started train one network together; yields this one's device.

    On "cuda" each process takes the GPU of its local rank; "auto" is "cuda" where torch sees one, otherwise "cpu". Raises
    InputError when there are more processes than GPUs, or none.

    >>> with join_ranks("cpu") as device:
    ...     device, rank_and_size()
    ('cpu', (0, 1))
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    cuda = torch.device(device).type == "cuda"
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        if cuda and not torch.cuda.is_available():
            raise InputError(f"device {device}: torch sees no such accelerator here; use cpu.")
        yield device
        return
    if cuda:
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= count:
            raise InputError(f"torchrun started process {local + 1} of a machine with {count} GPUs; start one for each.")
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many train together; (0, 1) alone."""
    together = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if together else (0, 1)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
    """Replace every gradient by its mean over the processes, in one exchange, and return the mean of ``loss``.

    All processes get the same numbers, to the last bit, so that equal optimisers keep their weights equal.
    """
    size = rank_and_size()[1]
    if size == 1:
        return loss
    trained = [p for p in parameters if p.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    flat = torch.cat([parameters_to_vector(gradients), loss.detach().reshape(1)])
    dist.all_reduce(flat)
    flat /= size
    vector_to_parameters(flat, gradients)
    for p, gradient in zip(trained, gradients, strict=True):
        p.grad = gradient
    return flat[-1]
