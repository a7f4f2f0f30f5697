"""mup.coord_check.get_coord_data, in PyTorch."""
import functools

import mup
import torch
from mup.coord_check import get_coord_data
from torch import nn

from benchmarks.coord_check.settings import BATCH, CLASSES, HEADS, INPUTS, LENGTH, LR, STEPS, timed


def measure(model, widths, seeds, layers):
    """Times mup's check, and its second run."""
    network = functools.partial({"mlp": mlp, "transformer": transformer}[model], layers=layers)

    def build(width):
        target = network(width)
        mup.set_base_shapes(target, network(widths[0]), delta=network(2 * widths[0]))
        return target

    length = LENGTH if model == "transformer" else 1
    data = [(torch.randn(BATCH, length, INPUTS), torch.arange(BATCH) % CLASSES)]
    check = functools.partial(
        get_coord_data, {width: functools.partial(build, width) for width in widths}, data, optimizer="adam",
        lr=LR, nsteps=STEPS, nseeds=seeds, cuda=False, show_progress=False)
    return {"cold": timed(check), "executed": timed(check)}


def mlp(width, layers):
    hidden = [part for i in range(3) for part in (nn.Linear(width if i else INPUTS, width), nn.ReLU())]
    return nn.Sequential(Mean(), *hidden, mup.MuReadout(width, CLASSES))


def transformer(width, layers):
    blocks = (Block(width) for _ in range(layers))
    return nn.Sequential(nn.Linear(INPUTS, width), *blocks, Mean(), mup.MuReadout(width, CLASSES))


class Block(nn.Module):
    """A pre-LN block with 1/d attention."""

    def __init__(self, width):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (part.reshape(batch, length, HEADS, -1).transpose(1, 2)
                   for part in self.qkv(self.norms[0](x)).chunk(3, -1))
        attention = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1], -1)
        x = x + self.out((attention @ v).transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norms[1](x))


class Mean(nn.Module):
    """The mean over a sequence."""

    def forward(self, x):
        return x.mean(1)
