"""Training in several processes, one for each GPU, started by torch's own launcher (torchrun)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pnp_lip.errors import InputError

__all__ = ["Ranks", "join_ranks"]


@contextlib.contextmanager
def join_ranks(device: str) -> Iterator[str]:
    """Inside the context the processes that torchrun started train one network together; yields this one's device.

    On "cuda" each process takes the GPU of its local rank; "auto" is "cuda" where torch sees one, otherwise "cpu". Raises
    InputError when there are more processes than GPUs, or none.

    >>> with join_ranks("cpu") as device:
    ...     device, Ranks.here()
    ('cpu', Ranks(rank=0, size=1))
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
            raise InputError(
                f"torchrun started process {local + 1} of a machine with {count} GPUs; start one for each."
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This process is number ``rank`` of ``size`` that train together; alone it is 0 of 1, and nothing is exchanged."""

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """Those of torch's process group, if there is one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def share(self, module: nn.Module) -> None:
        """Give every process the weights of the first."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    @torch.no_grad()
    def average(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
        """Replace every gradient by its mean over the processes, in one exchange, and return the mean of ``loss``.

        All processes get the same numbers, to the last bit, so that equal optimisers keep their weights equal.
        """
        if self.size == 1:
            return loss
        trained = [p for p in parameters if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = torch.cat([*(g.reshape(-1) for g in gradients), loss.detach().reshape(1)])
        dist.all_reduce(flat)
        flat /= self.size
        start = 0
        for p in trained:
            p.grad = flat[start : start + p.numel()].reshape(p.shape)
            start += p.numel()
        return flat[-1]

    def gather(self, item: Tensor) -> list[Tensor]:
        """The tensor of every process, in the order of their ranks."""
        items = [item] * self.size
        if self.size > 1:
            dist.all_gather_object(items, item)
        return items
