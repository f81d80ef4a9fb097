"""Train a transformer with FSDP2: mixed precision, accumulation, clipping, a schedule, resuming.

    torchrun --nproc-per-node 2 examples/sharding/fsdp2.py checkpoints

Each process uses a GPU with NCCL, or the CPU with gloo. If the folder holds a checkpoint, the
program continues from the last one, also with another number of processes.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from novograd.torch import NovoGrad, no_decay

STEPS, WARMUP, SAVE_EVERY = 40, 4, 20
ACCUMULATED = 2  # batches for each step
BATCH, LENGTH, WORDS, WIDTH = 8, 16, 32, 32


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 2, 4 * WIDTH, dropout=0.0, batch_first=True)
            for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, words):
        x = self.embedding(words)
        for block in self.blocks:
            x = block(x)
        return self.head(x.flatten(0, 1))


def batch(number, device):
    """Returns words, and their successors: each word is followed by the next one but one."""
    generator = torch.Generator().manual_seed(number * dist.get_world_size() + dist.get_rank())
    start = torch.randint(WORDS, (BATCH, 1), generator=generator)
    words = (start + 2 * torch.arange(LENGTH + 1)) % WORDS
    return words[:, :-1].to(device), words[:, 1:].to(device)


def make(device):
    """Returns the sharded model, its optimizer and the schedule."""
    torch.manual_seed(0)  # the same initial weights in each process
    model = Model().to(device)
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    # Weights and activations are bfloat16, gradients are added in float32. The optimizer has the
    # float32 weights.
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for part in (*model.blocks, model):
        fully_shard(part, mesh=mesh, mp_policy=precision)
    # The optimizer comes after fully_shard, which replaces the parameters.
    optimizer = NovoGrad(no_decay(model, weight_decay=0.01), lr=4e-3, variant="rows")
    rise = LinearLR(optimizer, 1 / WARMUP, total_iters=WARMUP)
    fall = CosineAnnealingLR(optimizer, STEPS - WARMUP)
    return model, optimizer, SequentialLR(optimizer, [rise, fall], [WARMUP])


def take_step(number, model, optimizer, schedule, device):
    """Takes a step and returns the mean loss over all processes."""
    total = torch.zeros((), device=device)
    for part in range(ACCUMULATED):
        # Gradients are only exchanged with those of the last batch.
        model.set_requires_gradient_sync(part == ACCUMULATED - 1)
        words, successors = batch(number * ACCUMULATED + part, device)
        logits = model(words).float()
        loss = cross_entropy(logits, successors.flatten()) / ACCUMULATED
        loss.backward()
        total += loss.detach()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def save(folder, number, model, optimizer, schedule):
    weights, state = get_state_dict(model, optimizer)
    content = {"model": weights, "optimizer": state, "schedule": schedule.state_dict()}
    dcp.save(content, checkpoint_id=folder / f"step-{number:06}")


def resume(folder, model, optimizer, schedule):
    """Loads the last checkpoint, if there is one, and returns the number of steps so far."""
    checkpoints = sorted(folder.glob("step-*/.metadata"))
    if not checkpoints:
        return 0
    path = checkpoints[-1].parent
    weights, state = get_state_dict(model, optimizer)
    content = {"model": weights, "optimizer": state, "schedule": schedule.state_dict()}
    dcp.load(content, checkpoint_id=path)
    set_state_dict(
        model, optimizer, model_state_dict=content["model"], optim_state_dict=content["optimizer"]
    )
    schedule.load_state_dict(content["schedule"])
    return int(path.name.removeprefix("step-"))


def main(folder):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    training = make(device)
    start = resume(folder, *training)
    losses = []
    for number in range(start, STEPS):
        losses.append(take_step(number, *training, device))
        if (number + 1) % SAVE_EVERY == 0:
            save(folder, number + 1, *training)
    if dist.get_rank() == 0:
        if losses:
            print(f"steps {start} to {STEPS}: loss {losses[0]:.3f} -> {losses[-1]:.9f}")
        else:
            print(f"the training is already finished: {folder} has the checkpoint of step {start}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
