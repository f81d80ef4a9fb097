"""Runs a function in several real processes, which communicate over gloo."""

import datetime
import multiprocessing
import pickle
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

# The processes are forked from a process with the imports that take seconds.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["torch.distributed.tensor", "torch.distributed.fsdp", "tests.helpers.torch"]
)
_PATIENCE = datetime.timedelta(seconds=60)


def run(world, function, folder, *arguments):
    """Calls ``function(*arguments)`` in ``world`` processes; returns the results by rank."""
    folder = Path(folder)
    meeting = folder / f"meeting-{function.__name__}-{len(list(folder.iterdir()))}"
    files = [folder / f"{meeting.name}-{rank}" for rank in range(world)]
    processes = [
        _CONTEXT.Process(target=_rank, args=(rank, world, meeting, file, function, arguments))
        for rank, file in enumerate(files)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(2 * _PATIENCE.total_seconds())
        process.kill()
    outcomes = [
        pickle.loads(file.read_bytes())
        if file.exists()
        else (f"died, exit code {process.exitcode}", None)
        for process, file in zip(processes, files, strict=True)
    ]
    errors = [f"rank {rank}: {error}" for rank, (error, _) in enumerate(outcomes) if error]
    if errors:
        raise AssertionError("\n".join(errors))
    return [result for _, result in outcomes]


def full(x):
    """Returns a detached tensor; if the argument is a DTensor, the full tensor."""
    return x.full_tensor().detach() if isinstance(x, DTensor) else x.detach()


def _rank(rank, world, meeting, file, function, arguments):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world, timeout=_PATIENCE
    )
    try:
        outcome = None, function(*arguments)
    except BaseException:
        outcome = traceback.format_exc(), None
    file.write_bytes(pickle.dumps(outcome))
    if outcome[0] is None:
        dist.barrier()
    dist.destroy_process_group()
