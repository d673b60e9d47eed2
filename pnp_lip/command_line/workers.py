"""Worker processes: each loads torch, the weights and their proof once, and restores one file or slice after the other."""

import argparse
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait

from pnp_lip.command_line.items import Item, Outcome

__all__ = ["Begin", "outcomes"]

Begin = Callable[[argparse.Namespace], Callable[[Item], Outcome]]


def files(options: argparse.Namespace) -> Callable[[Item], Outcome]:
    """What restores a file, with torch."""
    from pnp_lip.command_line.restoring import outcome_of

    return functools.partial(outcome_of, options=options)


def outcomes(items: Sequence[Item], options: argparse.Namespace, begin: Begin = files) -> Generator[Outcome, None, None]:
    """What became of each item, in the order in which they end, with ``options.jobs`` items at a time.

    ``begin`` makes, in each worker, what restores an item. A worker that dies, for lack of memory say, costs its item, and
    another one takes its place.
    """
    context = multiprocessing.get_context("spawn")  # torch does not survive a fork
    settings = {name: value for name, value in vars(options).items() if name != "run"}  # which is no plain value
    left, busy = list(reversed(items)), dict[Connection, tuple[multiprocessing.process.BaseProcess, Item]]()

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, settings), daemon=True)
        process.start()
        theirs.close()  # so that the end of the worker ends the pipe
        ours.send(begin)
        give(ours, process)

    def give(worker: Connection, process: multiprocessing.process.BaseProcess) -> None:
        busy[worker] = (process, left.pop())
        worker.send(busy[worker][1])

    try:
        for _ in range(min(options.jobs, len(items))):
            start()
        while busy:
            ready = wait(list(busy))
            for worker in [worker for worker in busy if worker in ready]:
                process, item = busy.pop(worker)
                try:
                    yield worker.recv()
                except (EOFError, ConnectionResetError):
                    process.join()
                    yield Outcome(item, "failed", ended(process.exitcode))
                    if left:
                        start()
                    continue
                if left:
                    give(worker, process)
                else:
                    worker.close()
                    process.join()
    finally:
        for process, _ in busy.values():
            process.terminate()


def ended(code: int | None) -> str:
    """Why a worker sent nothing."""
    if code == -signal.SIGKILL:
        return "its process was killed, probably because memory ran out; fewer --jobs need less."
    return f"its process ended with exit code {code}."


def serve(pipe: Connection, settings: dict[str, object]) -> None:
    """The life of a worker: it ends with the pipe, or at once with the command itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command ends its workers
    threading.Thread(target=leave_with_the_command, daemon=True).start()
    import torch

    options = argparse.Namespace(**settings)
    if options.jobs > 1:
        torch.set_num_threads(1)
    restore = pipe.recv()(options)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        pipe.send(restore(item))


def leave_with_the_command() -> None:
    """A killed command says nothing to its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
