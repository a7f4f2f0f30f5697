"""Sizes, optimizers, weights and data that both sides of the golden test share, in numpy alone.

make_microsoft_mup.py trains these cases with microsoft/mup, ../test_golden.py with haiku_mup.
Weights are drawn here on both sides, so that none need to be stored.
"""
import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

STEPS = 20
INPUTS, CLASSES, EXAMPLES = 6, 5, 16  # the MLP's data
VOCAB, LENGTH, SENTENCES = 11, 7, 4  # the language model's
LAYERS = 2
PIXELS, COLOURS = 5, 2  # of the convolutional networks' square images
MOMENTS = 4  # the recurrent network's sequences: [EXAMPLES, MOMENTS, INPUTS]


class Mlp(NamedTuple):
    widths: tuple[int, int, int]


class Lm(NamedTuple):
    d: int
    heads: int
    key: int
    ffn: int


class Cnn(NamedTuple):
    """Two of convolution, batch norm, ReLU; then convolution, ReLU, mean over the pixels, readout."""
    channels: tuple[int, int, int]


class Deconv(NamedTuple):
    """Convolution, ReLU, transposed convolution, ReLU, readout of a pixel."""
    channels: tuple[int, int]


class Lstm(NamedTuple):
    """A linear layer, unless `embed` is 0; an LSTM; a readout of its last output."""
    embed: int
    hidden: int


class Model(NamedTuple):
    """A base and a target size, and what the two have in common."""
    base: Mlp | Lm | Cnn | Deconv | Lstm
    target: Mlp | Lm | Cnn | Deconv | Lstm
    delta: Mlp | Lm | Cnn | Deconv | Lstm | None = None
    tied: bool = False
    readout_bias: bool = True
    output_mult: float = 1.0
    as_convolution: bool = False  # microsoft/mup's side writes the transposed convolution as nn.Conv2d
    named: bool = False  # our side's readout is an hk.Linear that Mup(readouts=...) names

    @property
    def kind(self):
        return type(self.base).__name__.lower()


class Optimizer(NamedTuple):
    """`scale_decay`: each parameter's decay is multiplied by its lr factor (mup undoes this)."""
    rule: str  # 'sgd', 'adam' or 'adamw'
    lr: float
    momentum: float = 0.0
    decay: float = 0.0
    scale_decay: bool = False


_LM, _WIDE = Lm(d=8, heads=2, key=4, ffn=12), Lm(d=16, heads=2, key=8, ffn=36)
MODELS = {
    'mlp': Model(Mlp((8, 8, 8)), Mlp((24, 24, 24))),
    'mlp_rect': Model(Mlp((8, 8, 8)), Mlp((16, 24, 40)), output_mult=2.5),
    'mlp_kept': Model(Mlp((8, 6, 8)), Mlp((8, 15, 12)), readout_bias=False),  # one width stays
    'lm': Model(_LM, _WIDE, output_mult=1.5),
    'lm_heads': Model(_LM, Lm(d=24, heads=4, key=6, ffn=24)),  # more heads, and wider ones
    'lm_tied': Model(_LM, _WIDE, tied=True, readout_bias=False),
    'lm_tied_bias': Model(_LM, _WIDE, tied=True, output_mult=0.75),
    # three ratios: d x 2, ffn x 3, heads x key x 1.5
    'lm_uneven': Model(_LM, Lm(d=16, heads=3, key=4, ffn=36), output_mult=0.5),
    # widths that the target leaves as they are, and the delta marks: some fan-outs, some fan-ins
    'mlp_delta': Model(Mlp((8, 8, 8)), Mlp((24, 8, 20)), delta=Mlp((16, 16, 16)), output_mult=1.5),
    'mlp_delta_readout': Model(Mlp((8, 8, 8)), Mlp((8, 24, 8)), delta=Mlp((9, 9, 9))),
    'lm_delta': Model(_LM, _WIDE._replace(ffn=12), delta=Lm(d=12, heads=2, key=6, ffn=24)),
    'cnn': Model(Cnn((4, 6, 8)), Cnn((12, 12, 20)), output_mult=2.0),
    'cnn_delta': Model(Cnn((4, 6, 8)), Cnn((12, 6, 20)), delta=Cnn((8, 12, 16)), readout_bias=False),
    'lstm': Model(Lstm(0, 8), Lstm(0, 24), output_mult=1.5),
    'lstm_uneven': Model(Lstm(6, 8), Lstm(12, 24)),
    'deconv': Model(Deconv((4, 6)), Deconv((12, 18))),
    'deconv_uneven': Model(Deconv((4, 6)), Deconv((8, 24)), as_convolution=True, output_mult=2.0),
    # the same, but for microsoft/mup's fan axes: nn.ConvTranspose2d has them the other way round
    'deconv_swapped': Model(Deconv((4, 6)), Deconv((8, 24)), output_mult=2.0),
}

# Steps this large take every loss down by a fifth at least. A factor that is 1% off on one
# parameter then shows as 1e-6 or more (but on the keys' biases and on a convolution's before batch
# norm, which have no gradient), while rounding stays near 1e-15.
_SGD, _MOMENTUM, _ADAM = 0.1, 0.02, 0.02
OPTIMIZERS = {
    'sgd': Optimizer('sgd', _SGD),
    'momentum': Optimizer('sgd', _MOMENTUM, momentum=0.9),
    'sgd_decay': Optimizer('sgd', _MOMENTUM, momentum=0.9, decay=0.1),
    'sgd_decay_scaled': Optimizer('sgd', _MOMENTUM, momentum=0.9, decay=0.1, scale_decay=True),
    'adam': Optimizer('adam', _ADAM),
    'adamw': Optimizer('adamw', _ADAM, decay=0.5),
    'adamw_scaled': Optimizer('adamw', _ADAM, decay=0.5, scale_decay=True),
}
_EVERY = ('mlp', 'mlp_rect', 'mlp_kept', 'lm', 'lm_heads', 'lm_tied', 'lm_tied_bias')
_SOME = {name: tuple(OPTIMIZERS) for name in _EVERY} | {
    name: ('sgd', 'sgd_decay', 'adam', 'adamw') for name in ('cnn', 'lstm_uneven')}
RUNS = [(name, opt) for name in MODELS for opt in _SOME.get(name, ('sgd', 'adamw'))]
EPS = 1e-8  # of Adam, outside the square root on both sides


def shapes(model, size):
    """Returns {Haiku's parameter name: shape}, matrices as (in, out)."""
    make = {'mlp': _mlp_shapes, 'lm': _lm_shapes, 'cnn': _cnn_shapes, 'deconv': _deconv_shapes,
            'lstm': _lstm_shapes}
    return make[model.kind](model, size)


def _linear(name, n_in, n_out):
    return {f'{name}/w': (n_in, n_out), f'{name}/b': (n_out,)}


def _norm(name, d):
    return {f'{name}/scale': (d,), f'{name}/offset': (d,)}


def _mlp_shapes(model, size):
    out = {}
    for i, (n_in, n_out) in enumerate(pairwise((INPUTS, *size.widths))):
        out |= _linear(f'hidden{i}', n_in, n_out)
    return out | _readout(model, size.widths[-1], CLASSES)


def _lm_shapes(model, size):
    out = {'tokens/embeddings': (VOCAB, size.d), 'positions/embeddings': (LENGTH, size.d)}
    inner = size.heads * size.key
    for i in range(LAYERS):
        for name in ('query', 'key', 'value'):
            out |= _linear(f'attention{i}/{name}', size.d, inner)
        out |= _linear(f'attention{i}/linear', inner, size.d) | _norm(f'norm{i}_1', size.d)
        out |= _linear(f'up{i}', size.d, size.ffn) | _linear(f'down{i}', size.ffn, size.d)
        out |= _norm(f'norm{i}_2', size.d)
    return out | _readout(model, size.d, VOCAB)


def _conv(name, n_in, n_out):
    return {f'{name}/w': (3, 3, n_in, n_out), f'{name}/b': (n_out,)}


def _cnn_shapes(model, size):
    out = {}
    for i, (n_in, n_out) in enumerate(pairwise((COLOURS, *size.channels))):
        out |= _conv(f'conv{i}', n_in, n_out)
        if i < 2:
            out |= {f'norm{i}/{leaf}': (1, 1, 1, n_out) for leaf in ('scale', 'offset')}
    return out | _readout(model, size.channels[-1], CLASSES)


def _deconv_shapes(model, size):
    down, up = size.channels
    out = _conv('conv0', COLOURS, down) | {'up/w': (3, 3, up, down), 'up/b': (up,)}
    return out | _readout(model, up, CLASSES)


def _lstm_shapes(model, size):
    out = _linear('embed', INPUTS, size.embed) if size.embed else {}
    out |= _linear('lstm/linear', (size.embed or INPUTS) + size.hidden, 4 * size.hidden)
    return out | _readout(model, size.hidden, CLASSES)


def _readout(model, n_in, n_out):
    params = _linear('readout', n_in, n_out)
    drop = {'readout/w': model.tied, 'readout/b': not model.readout_bias}
    return {name: shape for name, shape in params.items() if not drop[name]}


def weights(model, size, seed=1):
    """Returns {Haiku's parameter name: float64 array}, from one stream in the order of the names.

    No parameter is zero, so that each, biases and norms included, is seen to be scaled rightly.
    """
    rng = np.random.RandomState(seed)  # its stream is frozen, unlike default_rng's
    return {name: _draw(rng, name, shape) for name, shape in sorted(shapes(model, size).items())}


def _draw(rng, name, shape):
    mean = float(name.endswith('/scale'))
    hidden = name.endswith('/w') and name != 'readout/w'
    fan_in = math.prod(shape) // shape[-2 if name == 'up/w' else -1]
    std = fan_in ** -0.5 if hidden else 1.0 if len(shape) == 2 else 0.2
    return mean + std * rng.standard_normal(shape)


def data(model, seed=2):
    """Returns (inputs, labels): arrays and classes, or tokens and the tokens that follow them."""
    rng = np.random.RandomState(seed)
    shape = {'mlp': (INPUTS,), 'cnn': (PIXELS, PIXELS, COLOURS), 'deconv': (PIXELS, PIXELS, COLOURS),
             'lstm': (MOMENTS, INPUTS)}.get(model.kind)
    if shape:
        return rng.standard_normal((EXAMPLES, *shape)), rng.randint(CLASSES, size=EXAMPLES)
    tokens = rng.randint(VOCAB, size=(SENTENCES, LENGTH + 1))
    return tokens[:, :-1], tokens[:, 1:]
