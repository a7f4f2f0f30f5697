"""Writes microsoft_mup.json: losses of cases.py's models, trained by microsoft/mup in float64.

Run it in an environment of its own; the test that reads the file needs neither torch nor mup:

    python -m venv torch-env && . torch-env/bin/activate
    pip install torch==2.13.0          # a CPU build is enough
    pip install --no-deps mup==1.0.0   # its listed dependencies include more than it uses here
    pip install pandas pyyaml tqdm
    python tests/reference/golden/make_microsoft_mup.py
"""
import importlib.metadata
import json
import pathlib

import cases
import mup
import numpy as np
import torch
import torch_nets
from torch import nn

OUT = pathlib.Path(__file__).with_name('microsoft_mup.json')


def linear(w=None, b=None):  # a tied readout has no weights of its own
    return ({} if w is None else {'weight': w.T}) | ({} if b is None else {'bias': b})


def convolution(w, b):
    """Maps [h, w, in, out] to [out, in, h, w]."""
    return {'weight': w.transpose(3, 2, 0, 1), 'bias': b}


def transposed(w, b):
    """Maps [h, w, out, in] to [in, out, h, w], flipped, for torch flips it and Haiku doesn't."""
    return {'weight': w[::-1, ::-1].transpose(3, 2, 0, 1), 'bias': b}


def upsampling(w, b):
    """Maps [h, w, out, in] to [out, in, h, w] of the convolution, which neither flips."""
    return {'weight': w.transpose(2, 3, 0, 1), 'bias': b}


def norm(scale, offset):
    return {'weight': scale.ravel(), 'bias': offset.ravel()}


def lstm(w, b):
    """Splits [x and h, gates] into [gates, x] and [gates, h]; reorders gates i, g, f, o to i, f, g, o."""
    w, b = (np.concatenate([np.split(x, 4, -1)[k] for k in (0, 2, 1, 3)], -1) for x in (w, b))
    inputs = len(w) - len(b) // 4
    return {'weight_ih_l0': w[:inputs].T, 'weight_hh_l0': w[inputs:].T, 'bias_ih_l0': b}


# From what Haiku calls a layer's parameters to what torch does; a subclass comes before its class.
CONVERTED = {torch_nets.Upsampling: upsampling, nn.Linear: linear, nn.LayerNorm: norm,
             nn.Conv2d: convolution, nn.ConvTranspose2d: transposed, nn.BatchNorm2d: norm,
             nn.LSTM: lstm, nn.Embedding: lambda embeddings: {'weight': embeddings}}


def copy_weights(net, weights):
    """Overwrites every parameter, mup's rescaling included; names and shapes must all agree."""
    layers = {}
    for name, w in weights.items():
        path, leaf = name.rsplit('/', 1)
        layers.setdefault(path, {})[leaf] = w
    if 'lstm/linear' in layers:
        layers['lstm'] = layers.pop('lstm/linear')
    params = {name: p for name, p in net.named_parameters() if p.requires_grad}
    for path, layer in layers.items():
        path = path.replace('/', '.')
        module = net.get_submodule(path)
        convert = next(convert for kind, convert in CONVERTED.items() if isinstance(module, kind))
        for leaf, w in convert(**layer).items():
            p, w = params.pop(f'{path}.{leaf}'), torch.from_numpy(w.copy())
            assert p.shape == w.shape and p.dtype == w.dtype, (path, leaf)
            p.data.copy_(w)
    assert not params, params.keys()


def build(model):
    net, base, delta = (size and torch_nets.build(model, size)
                        for size in (model.target, model.base, model.delta))
    mup.set_base_shapes(net, base, delta=delta)
    copy_weights(net, cases.weights(model, model.target))
    return net


def make_optimizer(spec, params):
    kwargs = {'lr': spec.lr, 'weight_decay': spec.decay}
    if spec.rule == 'sgd':
        optimizer = mup.MuSGD(params, momentum=spec.momentum, **kwargs)
    else:
        make = {'adam': mup.MuAdam, 'adamw': mup.MuAdamW}[spec.rule]
        optimizer = make(params, eps=cases.EPS, **kwargs)
    if spec.scale_decay:
        for group in optimizer.param_groups:
            group['weight_decay'] = spec.decay
    return optimizer


def train(model, spec):
    """Returns the loss before each step, and after the last."""
    net, (x, y) = build(model), map(torch.from_numpy, cases.data(model))
    optimizer = make_optimizer(spec, net.parameters())
    losses = []
    for _ in range(cases.STEPS + 1):
        loss = nn.functional.cross_entropy(net(x).flatten(0, -2), y.flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def main():
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    losses = {name: {} for name in cases.MODELS}
    for name, opt in cases.RUNS:
        losses[name][opt] = train(cases.MODELS[name], cases.OPTIMIZERS[opt])
    for name, by_opt in losses.items():
        for opt, values in by_opt.items():
            print(f'{name:18}{opt:18}', *(f'{v:8.4f}' for v in values[::4]))
    versions = {'torch': torch.__version__, 'mup': importlib.metadata.version('mup'),
                'numpy': np.__version__}
    text = json.dumps({'versions': versions, 'losses': losses})
    OUT.write_text(text.replace('}, ', '},\n').replace('], ', '],\n') + '\n')  # a run, a line


if __name__ == '__main__':
    main()
