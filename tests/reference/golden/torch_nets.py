"""The networks of cases.py in torch, with microsoft/mup's readouts."""
import itertools

import cases
import mup
import torch
from torch import nn


def build(model, size):
    make = {'mlp': Mlp, 'lm': Lm, 'cnn': Cnn, 'deconv': Deconv, 'lstm': Lstm}
    return make[model.kind](model, size)


def readout(model, n_in, n_out):
    return mup.MuReadout(n_in, n_out, bias=model.readout_bias, output_mult=model.output_mult)


class Mlp(nn.Module):
    def __init__(self, model, size):
        super().__init__()
        for i, (n_in, n_out) in enumerate(itertools.pairwise((cases.INPUTS, *size.widths))):
            self.add_module(f'hidden{i}', nn.Linear(n_in, n_out))
        self.readout = readout(model, size.widths[-1], cases.CLASSES)
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
            return readout(model, size.d, cases.VOCAB)
        shared = mup.MuSharedReadout(self.tokens.weight, bias=False, output_mult=model.output_mult)
        if model.readout_bias:  # mup 1.0.0's own has the length of d instead of the vocabulary's
            shared.bias = nn.Parameter(torch.zeros(cases.VOCAB))
        return shared

    def forward(self, tokens):  # [B, T]
        x = self.tokens(tokens) + self.positions.weight
        for i in range(cases.LAYERS):
            x = getattr(self, f'norm{i}_1')(x + getattr(self, f'attention{i}')(x))
            h = torch.relu(getattr(self, f'up{i}')(x))
            x = getattr(self, f'norm{i}_2')(x + getattr(self, f'down{i}')(h))
        return self.readout(x)


class Cnn(nn.Module):
    def __init__(self, model, size):
        super().__init__()
        for i, (n_in, n_out) in enumerate(itertools.pairwise((cases.COLOURS, *size.channels))):
            self.add_module(f'conv{i}', nn.Conv2d(n_in, n_out, 3, padding=1))
        self.norm0, self.norm1 = map(nn.BatchNorm2d, size.channels[:2])
        self.readout = readout(model, size.channels[-1], cases.CLASSES)

    def forward(self, x):  # [B, H, W, C]
        x = x.movedim(-1, 1)
        x = torch.relu(self.norm0(self.conv0(x)))
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.readout(torch.relu(self.conv2(x)).mean((2, 3)))


class Deconv(nn.Module):
    def __init__(self, model, size):
        super().__init__()
        self.conv0 = nn.Conv2d(cases.COLOURS, size.channels[0], 3, padding=1)
        up = Upsampling if model.as_convolution else nn.ConvTranspose2d
        self.up = up(*size.channels, 3, stride=2)
        self.readout = readout(model, size.channels[1], cases.CLASSES)

    def forward(self, x):  # [B, H, W, C]
        x = torch.relu(self.up(torch.relu(self.conv0(x.movedim(-1, 1)))))
        return self.readout(x[:, :, 5, 5])


class Upsampling(nn.Conv2d):
    """nn.ConvTranspose2d by its definition: a convolution of inputs with zeros between and around them.

    Its kernel is [out, in, h, w], as microsoft/mup expects. nn.ConvTranspose2d's is [in, out, h, w], and
    mup 1.0.0 takes its fan-out for its fan-in.
    """

    def __init__(self, n_in, n_out, kernel, stride):
        super().__init__(n_in, n_out, kernel)
        self.between = stride

    def forward(self, x):
        n, c, h, w = x.shape
        k, spread = self.between, [self.kernel_size[0] - 1] * 4
        wide = x.new_zeros(n, c, k * (h - 1) + 1, k * (w - 1) + 1)
        wide[:, :, ::k, ::k] = x
        return super().forward(nn.functional.pad(wide, spread))


class Lstm(nn.Module):
    def __init__(self, model, size):
        super().__init__()
        if size.embed:
            self.embed = nn.Linear(cases.INPUTS, size.embed)
        self.lstm = nn.LSTM(size.embed or cases.INPUTS, size.hidden, batch_first=True)
        bias = torch.zeros(4, size.hidden)
        bias[1] = 1.0  # Haiku adds 1 to the forget gate, outside of its one bias
        self.lstm.bias_hh_l0 = nn.Parameter(bias.ravel(), requires_grad=False)
        self.readout = readout(model, size.hidden, cases.CLASSES)

    def forward(self, x):  # [B, T, D]
        x = self.embed(x) if hasattr(self, 'embed') else x
        return self.readout(self.lstm(x)[0][:, -1])
