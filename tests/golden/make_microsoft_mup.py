"""Writes microsoft_mup.json: losses of cases.py's models, trained by microsoft/mup in float64.

Run it in an environment of its own; the test that reads the file needs neither torch nor mup:

    python -m venv torch-env && . torch-env/bin/activate
    pip install torch==2.13.0          # a CPU build is enough
    pip install --no-deps mup==1.0.0   # its listed dependencies include more than it uses here
    pip install pandas pyyaml tqdm
    python tests/golden/make_microsoft_mup.py
"""
import importlib.metadata
import itertools
import json
import pathlib

import cases
import mup
import numpy as np
import torch
from torch import nn

OUT = pathlib.Path(__file__).with_name('microsoft_mup.json')


class Mlp(nn.Module):
    def __init__(self, model, size):
        super().__init__()
        for i, (n_in, n_out) in enumerate(itertools.pairwise((cases.INPUTS, *size.widths))):
            self.add_module(f'hidden{i}', nn.Linear(n_in, n_out))
        self.readout = mup.MuReadout(size.widths[-1], cases.CLASSES, bias=model.readout_bias,
                                     output_mult=model.output_mult)
        self.depth = len(size.widths)

    def forward(self, x):
        for i in range(self.depth):
            x = torch.relu(getattr(self, f'hidden{i}')(x))
        return self.readout(x)


class Attention(nn.Module):
    """Causal attention whose logits are q.k sqrt(d_base) / d: 1/sqrt(d) at the base, then 1/d."""

    def __init__(self, size, base):
        super().__init__()
        inner = size.heads * size.key
        self.query, self.key, self.value = (nn.Linear(size.d, inner) for _ in range(3))
        self.linear = nn.Linear(inner, size.d)
        self.heads, self.scale = size.heads, base.key ** 0.5 / size.key

    def forward(self, x):  # [B, T, D]
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)) for f in (self.query, self.key, self.value))
        logits = torch.einsum('bthd,bshd->bhts', q, k) * self.scale
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        attention = logits.masked_fill(future, -1e30).softmax(-1)
        return self.linear(torch.einsum('bhts,bshd->bthd', attention, v).flatten(-2))


class Lm(nn.Module):
    def __init__(self, model, size):
        super().__init__()
        self.tokens = nn.Embedding(cases.VOCAB, size.d)
        self.positions = nn.Embedding(cases.LENGTH, size.d)
        for i in range(cases.LAYERS):
            self.add_module(f'attention{i}', Attention(size, model.base))
            self.add_module(f'norm{i}_1', nn.LayerNorm(size.d, eps=1e-5))
            self.add_module(f'up{i}', nn.Linear(size.d, size.ffn))
            self.add_module(f'down{i}', nn.Linear(size.ffn, size.d))
            self.add_module(f'norm{i}_2', nn.LayerNorm(size.d, eps=1e-5))
        self.readout = self.make_readout(model, size)

    def make_readout(self, model, size):
        if not model.tied:
            return mup.MuReadout(size.d, cases.VOCAB, bias=model.readout_bias,
                                 output_mult=model.output_mult)
        readout = mup.MuSharedReadout(self.tokens.weight, bias=False, output_mult=model.output_mult)
        if model.readout_bias:  # mup 1.0.0's own has the length of d instead of the vocabulary's
            readout.bias = nn.Parameter(torch.zeros(cases.VOCAB))
        return readout

    def forward(self, tokens):  # [B, T]
        x = self.tokens(tokens) + self.positions.weight
        for i in range(cases.LAYERS):
            x = getattr(self, f'norm{i}_1')(x + getattr(self, f'attention{i}')(x))
            h = torch.relu(getattr(self, f'up{i}')(x))
            x = getattr(self, f'norm{i}_2')(x + getattr(self, f'down{i}')(h))
        return self.readout(x)


SUFFIXES = {nn.Linear: {'weight': 'w', 'bias': 'b'}, nn.Embedding: {'weight': 'embeddings'},
            nn.LayerNorm: {'weight': 'scale', 'bias': 'offset'}}


def haiku_names(net):
    """Haiku's name -> (torch's parameter, whether it lies transposed)."""
    out = {}
    for name, _ in net.named_parameters():
        path, _, leaf = name.rpartition('.')
        module = net.get_submodule(path)
        kind = next(kind for kind in SUFFIXES if isinstance(module, kind))
        transposed = kind is nn.Linear and leaf == 'weight'
        out[f"{path.replace('.', '/')}/{SUFFIXES[kind][leaf]}"] = getattr(module, leaf), transposed
    return out


def copy_weights(net, weights):
    """Overwrites every parameter, mup's rescaling included; names and shapes must all agree."""
    params = haiku_names(net)
    assert params.keys() == weights.keys(), params.keys() ^ weights.keys()
    for name, (p, transposed) in params.items():
        w = torch.from_numpy(weights[name].T.copy() if transposed else weights[name])
        assert p.shape == w.shape and p.dtype == w.dtype, name
        p.data.copy_(w)


def build(model):
    make = Mlp if model.kind == 'mlp' else Lm
    net = mup.set_base_shapes(make(model, model.target), make(model, model.base))
    copy_weights(net, cases.weights(model, model.target))
    return net


def make_optimizer(spec, kind, params):
    kwargs = {'lr': spec.lr[kind], 'weight_decay': spec.decay}
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
    """The loss before each step, and after the last."""
    net, (x, y) = build(model), map(torch.from_numpy, cases.data(model))
    optimizer = make_optimizer(spec, model.kind, net.parameters())
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
    losses = {name: {opt: train(model, spec) for opt, spec in cases.OPTIMIZERS.items()}
              for name, model in cases.MODELS.items()}
    for name, by_opt in losses.items():
        for opt, values in by_opt.items():
            print(f'{name:14}{opt:18}', *(f'{v:8.4f}' for v in values[::4]))
    versions = {'torch': torch.__version__, 'mup': importlib.metadata.version('mup'),
                'numpy': np.__version__}
    text = json.dumps({'versions': versions, 'losses': losses})
    OUT.write_text(text.replace('}, ', '},\n').replace('], ', '],\n') + '\n')  # a run, a line


if __name__ == '__main__':
    main()
