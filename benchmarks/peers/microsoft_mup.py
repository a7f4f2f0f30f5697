"""Measurements of microsoft/mup."""
import functools

import mup
import torch
from torch import nn

from benchmarks.peers.common import DECAY, EVEN, LR, STD, UNEVEN, WIDE, with_file
from benchmarks.peers.table import format_cell

INITIALIZERS = [("kaiming_normal_", {"mode": "fan_in"}), ("normal_", {"std": STD}),
                ("kaiming_normal_", {"mode": "fan_out"})]


def measures():
    """Returns {row: function of nothing}."""
    return {
        "init": std_ratios,
        "adam": lambda: factor(mlp, widths=UNEVEN),
        "transposed": lambda: factor(transposed, widths=UNEVEN),
        "adamw": lambda: factor(mlp, DECAY),
        "tied": logit_multiplier,
        "output": lambda: capture(functools.partial(mlp, out=nn.Linear)) and "silent",
        "conv_output": lambda: capture(conv_output) and "silent",
        "file": lambda: with_file(lambda file: factor(mlp, file=file)),
    }


def mlp(w1, w2, out=mup.MuReadout):
    return nn.Sequential(nn.Linear(8, w1), nn.Linear(w1, w2), out(w2, 5))


def transposed(w1, w2):
    return nn.Sequential(nn.Conv2d(3, w1, 3), nn.ConvTranspose2d(w1, w2, 3), mup.MuReadout(w2, 5))


def tied(w1, _):
    embed = nn.Embedding(11, w1)
    return nn.Sequential(embed, mup.MuSharedReadout(embed.weight, bias=False))


def conv_output(w1, _):
    return nn.Sequential(nn.Conv2d(3, w1, 3), nn.Conv2d(w1, 5, 3))


def capture(net, widths=EVEN, file=None):
    """Returns the target, its base shapes set."""
    base, target = (net(*w) for w in widths)
    if file:
        mup.make_base_shapes(base, target, savefile=file)
    return mup.set_base_shapes(target, file or base)


def factor(net, decay=0.0, **options):
    """Returns the factor of a hidden weight's step, or of its decay."""
    model = capture(net, **options)
    for param in model.parameters():
        param.data.fill_(1.0)
        param.grad = torch.full_like(param, float(not decay))
    mup.MuAdamW(model.parameters(), lr=LR, weight_decay=decay).step()
    return float(1 - model[1].weight.detach().mean()) / LR / (decay or 1)


def std_ratio(use_mup_init, name, options):
    """Returns the std of a hidden weight relative to what is wanted, by torch.nn.init or by mup.init."""
    base, target = (mlp(*w) for w in WIDE)
    for model in base, target:
        getattr(nn.init, name)(model[1].weight, **options)
    mup.set_base_shapes(target, base)
    if use_mup_init:
        getattr(mup.init, name)(target[1].weight, **options)
    return float(target[1].weight.detach().std() / base[1].weight.detach().std()) * 8**0.5


def std_ratios():
    """Formats the ratios of both."""
    plain, by_mup = (format_cell([std_ratio(use_mup_init, *each) for each in INITIALIZERS])
                     for use_mup_init in (False, True))
    return f"torch.nn.init {plain}; mup.init {by_mup}"


def logit_multiplier():
    """Formats what the logits are multiplied by, and what the embedding is."""
    base, target = (tied(*w) for w in EVEN)
    before = target[0].weight.detach().clone()
    mup.set_base_shapes(target, base)
    growth = (target[0].weight.detach() / before).mean()
    target[0].weight.data.fill_(1.0)
    logits = target(torch.arange(4)).detach().mean() / EVEN[1][0]
    return f"{logits:.3f}; set_base_shapes multiplies the embedding by {growth:.3f}"
