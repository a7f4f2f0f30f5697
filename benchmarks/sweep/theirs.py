"""MuAdam of mup in PyTorch, in a plain loop over steps."""
import mup
import torch
from torch import nn

from benchmarks.sweep.settings import BASE, CLASSES, HIDDEN, INPUTS, TRIALS, batches, make_data, timed

X, Y = map(torch.from_numpy, make_data())


def measure(widths, trials):
    """Times the loop, from the second trial of a width on."""
    seconds = {}
    for width in widths:
        train(width, 0)
        seconds[width] = sum(timed(train, width, seed) for seed in range(trials)) / trials * TRIALS
    return seconds | {"whole": sum(seconds.values())}


def network(width):
    """Returns an MLP."""
    sizes = [INPUTS] + [width] * HIDDEN
    hidden = [part for a, b in zip(sizes, sizes[1:]) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, mup.MuReadout(width, CLASSES))


def train(width, seed):
    """Trains one trial; returns the losses."""
    torch.manual_seed(seed)
    model, losses = network(width), []
    mup.set_base_shapes(model, network(BASE), delta=network(2 * BASE))
    optimizer, rows = mup.MuAdam(model.parameters(), lr=1e-3), torch.from_numpy(batches(seed))
    for batch in rows:
        loss = nn.functional.cross_entropy(model(X[batch]), Y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
