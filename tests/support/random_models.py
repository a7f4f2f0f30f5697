"""Random Haiku models from pieces, each twice: with the library's layers, and in plain Haiku."""
import contextlib
import functools
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from small_models import KEY

import haiku_mup

FEATURES, CLASSES, VOCAB, NARROW, LAYERS = 3, 3, 5, 4, 2       # sizes that never grow
W_INITS = {
    "default": None,                                            # 1 / √fan_in in most layers
    "constant": hk.initializers.RandomNormal(0.3),
    "small": hk.initializers.RandomNormal(0.02),
    "fan_out": hk.initializers.VarianceScaling(2.0, "fan_out", "normal"),
    "fan_avg": hk.initializers.VarianceScaling(1.0, "fan_avg", "uniform"),
    "uniform": hk.initializers.UniformScaling(1.0),
    "orthogonal": hk.initializers.Orthogonal(),
}
B_INITS = {"zeros": None, "constant": hk.initializers.RandomNormal(0.2),
           "fan": hk.initializers.VarianceScaling()}
STEMS = "linear", "conv", "embed"
BLOCKS = ("linear", "conv", "transpose", "depthwise", "norm", "rms", "residual", "stack", "keys", "heads",
          "lstm", "gru", "einsum", "bottleneck")
HEADS = "readout", "conv_readout", "glob_linear", "glob_conv", "glob_transpose", "tied"


class Piece(NamedTuple):
    """One part of a model: its widths are the `out`-th and the `inner`-th of three."""

    kind: str
    out: int
    inner: int
    w_init: str
    b_init: str


class Spec(NamedTuple):
    """A model at its base, delta (None for none) and target: three widths each."""

    pieces: tuple[Piece, ...]       # stem, blocks, head
    base: tuple[int, ...]
    delta: tuple[int, ...] | None
    target: tuple[int, ...]
    glob: bool                      # whether einsum weights are declared from outside

    @property
    def tied(self):
        return self.pieces[-1].kind == "tied"


def _pieces(kinds):
    return st.builds(Piece, st.sampled_from(kinds), st.integers(0, 2), st.integers(0, 2),
                     st.sampled_from(sorted(W_INITS)), st.sampled_from(sorted(B_INITS)))


@st.composite
def specs(draw, most=3):
    """Draws a stem, one to `most` blocks and a head; targets have any ratios, those below 1 included."""
    base = draw(st.tuples(*[st.integers(2, 4)] * 3))
    delta = draw(st.sampled_from([None, tuple(n + 1 for n in base)]))
    target = tuple(draw(st.integers(2, 9).filter(lambda n, b=b: delta or n != b)) for b in base)
    blocks = draw(st.lists(_pieces(BLOCKS), min_size=1, max_size=most))
    pieces = draw(_pieces(STEMS)), *blocks, draw(_pieces(HEADS))
    return Spec(pieces, base, delta, target, draw(st.booleans()))


def captured(spec, dtype="float32"):
    """Returns a Mup that has captured the shapes of the model's base, delta and target."""
    index = range(len(spec.pieces))
    einsums = [i for i in index if spec.pieces[i].kind == "einsum"] if spec.glob else []
    mup = haiku_mup.Mup(
        fans={f"*einsum{i}/{leaf}": fans for i in einsums for leaf, fans in EINSUM.items()},
        readouts="*logits*" if spec.pieces[-1].kind.startswith("glob") else ())
    for context, widths in ((mup.init_base, spec.base), (mup.init_delta, spec.delta),
                            (mup.init_target, spec.target)):
        if widths:
            with context():
                jax.eval_shape(model(spec, widths).init, KEY, *inputs(dtype))
    return mup


def inputs(dtype="float32"):
    """Returns vectors [batch, time, features] and ids [batch, time]."""
    x = np.sin(np.arange(2 * 4 * FEATURES)).reshape(2, 4, FEATURES).astype(dtype)
    return jnp.asarray(x), jnp.asarray(np.arange(8).reshape(2, 4) % VOCAB)


def model(spec, widths, plain=False, every=False):
    """Transforms the model of a spec.

    Args:
      plain: build it of Haiku's layers, with no multipliers but those that Table 3 can't do without.
      every: return the outputs of all layers outside of LSTMs and GRUs, {name: array}, and the model's own as
        "last"; not for a model with a stack.
    """
    def creator(next_creator, shape, dtype, init, context):
        return next_creator(shape, jnp.asarray(0.0).dtype, init)    # hk.Embed knows no dtype of its own

    def fn(x, ids):
        outputs = {}
        scope = contextlib.nullcontext() if plain else haiku_mup.apply_mup()
        with hk.custom_creator(creator), scope, hk.intercept_methods(functools.partial(_record, outputs)):
            for i, out in enumerate(_build(spec, widths, plain, x, ids)):
                outputs[f"part {i}"] = out
        return {**outputs, "last": out} if every else out

    return hk.without_apply_rng(hk.transform(fn))


def _record(outputs, next_method, args, kwargs, context):
    out, name = next_method(*args, **kwargs), context.module.module_name
    if context.method_name == "__call__" and not name.startswith(("lstm", "gru")):      # what is in their scan
        outputs[name] = out
    return out


def _build(spec, widths, plain, x, ids):
    """Yields the output of each piece, in order."""
    stem, *blocks, head = spec.pieces
    embed = None
    if spec.tied or stem.kind == "embed":
        layer = haiku_mup.SharedEmbed if spec.tied and not plain else hk.Embed
        embed = layer(VOCAB, widths[stem.out], w_init=W_INITS[stem.w_init], name="embed0")
        x = embed(ids)
    else:
        x = _block(stem, "0", spec, widths, plain, x)
    yield x
    for i, piece in enumerate(blocks, 1):
        x = _block(piece, str(i), spec, widths, plain, x)
        yield x
    if not spec.tied:
        yield _head(head, plain, str(len(blocks) + 1))(x)
        return
    x = _dense(head, f"linear{len(blocks) + 1}", widths[stem.out])(x)
    if plain:           # the one multiplier that Table 3 can't take into the weights
        yield x * (spec.base[stem.out] / widths[stem.out]) @ embed.embeddings.T
    else:
        yield haiku_mup.SharedReadout()(embed, x)


def _head(piece, plain, i):
    """Returns the last layer, which is a readout in the library's model."""
    name = f"transpose_logits{i}" if piece.kind == "glob_transpose" else f"logits{i}"
    settings = {"w_init": W_INITS[piece.w_init], "b_init": B_INITS[piece.b_init], "name": name}
    linear, conv, transpose = hk.Linear, hk.ConvND, hk.ConvNDTranspose
    if not plain and not piece.kind.startswith("glob"):
        linear, conv = haiku_mup.Readout, haiku_mup.ConvReadout
    if piece.kind in ("readout", "glob_linear"):
        return linear(CLASSES, **settings)
    layer = transpose if piece.kind == "glob_transpose" else conv
    return layer(1, output_channels=CLASSES, kernel_shape=3, **settings)


def _dense(piece, name, size, layer=hk.Linear):
    return layer(size, w_init=W_INITS[piece.w_init], b_init=B_INITS[piece.b_init], name=name)


def _block(piece, i, spec, widths, plain, x):
    """Maps [batch, time, channels] to the same, with channels from one growing width to another."""
    kind, out, inner = piece.kind, widths[piece.out], widths[piece.inner]
    settings = {"w_init": W_INITS[piece.w_init], "b_init": B_INITS[piece.b_init]}
    if kind == "linear":
        return jax.nn.relu(_dense(piece, f"linear{i}", out)(x))
    if kind == "conv":
        return jax.nn.relu(hk.Conv1D(out, 3, name=f"conv{i}", **settings)(x))
    if kind == "transpose":
        return jnp.tanh(hk.Conv1DTranspose(out, 3, name=f"transpose{i}", **settings)(x))
    if kind == "depthwise":
        return x + hk.DepthwiseConv1D(1, 3, name=f"depthwise{i}", **settings)(x)
    if kind == "norm":
        return hk.LayerNorm(-1, True, True, name=f"norm{i}")(x)
    if kind == "rms":
        return hk.RMSNorm(-1, name=f"norm{i}")(x)
    if kind == "residual":
        return _residual(piece, i, inner, x)
    if kind == "stack":
        return hk.experimental.layer_stack(LAYERS, name=f"stack{i}")(
            functools.partial(_residual, piece, i, inner))(x)
    if kind in ("keys", "heads"):
        return x + _attention(piece, i, spec, widths, plain, x)
    if kind == "lstm":
        core = hk.LSTM(out, name=f"lstm{i}")
        return hk.dynamic_unroll(core, x, core.initial_state(2), time_major=False)[0]
    if kind == "gru":
        core = hk.GRU(out, name=f"gru{i}")
        return hk.dynamic_unroll(core, x, core.initial_state(2), time_major=False)[0]
    if kind == "einsum":
        return x + Einsum(out, inner, plain or spec.glob, name=f"einsum{i}")(x)
    narrow = _dense(piece, f"narrow{i}", NARROW, hk.Linear if plain else haiku_mup.Readout)
    return _dense(piece, f"wide{i}", out)(jax.nn.relu(narrow(x)))


def _residual(piece, i, inner, x):
    h = hk.LayerNorm(-1, True, True, name=f"norm{i}")(x)
    h = jax.nn.relu(_dense(piece, f"up{i}", inner)(h))
    return x + _dense(piece, f"down{i}", x.shape[-1])(h)


def _attention(piece, i, spec, widths, plain, x):
    """Attends with two heads whose keys grow, or with more heads whose keys have size 2."""
    grown = piece.kind == "keys"
    keys, heads = (widths[piece.out], 2) if grown else (2, widths[piece.out])
    settings = {"w_init": W_INITS[piece.w_init] or hk.initializers.VarianceScaling(),
                "b_init": B_INITS[piece.b_init], "name": f"attention{i}",
                "value_size": widths[piece.inner] if grown else NARROW, "model_size": x.shape[-1]}
    if not plain:
        return haiku_mup.MultiHeadAttention(heads, keys, **settings)(x, x, x)
    growth = keys / spec.base[piece.out] if grown else 1.0
    return PlainAttention(heads, keys, np.sqrt(keys) * np.sqrt(growth), **settings)(x)


class PlainAttention(hk.Module):
    """Self-attention with softmax(q · k / `divisor`), written out."""

    def __init__(self, heads, keys, divisor, w_init, b_init, name, value_size, model_size):
        super().__init__(name)
        self.sizes = {"query": keys, "key": keys, "value": value_size}
        self.heads, self.divisor, self.model_size = heads, divisor, model_size
        self.linear = functools.partial(hk.Linear, w_init=w_init, b_init=b_init)

    def __call__(self, x):
        q, k, v = (self.linear(self.heads * size, name=name)(x).reshape(*x.shape[:-1], self.heads, size)
                   for name, size in self.sizes.items())
        logits = jnp.einsum("...thd,...Thd->...htT", q, k) / self.divisor.astype(x.dtype)
        mixed = jnp.einsum("...htT,...Thd->...thd", jax.nn.softmax(logits), v)
        return self.linear(self.model_size)(mixed.reshape(*x.shape[:-1], -1))


EINSUM = {"split": (0, (1, 2)), "gain": ((), (0, 1)), "merge": ((0, 1), 2)}


class Einsum(hk.Module):
    """[..., d] -> [..., heads, keys] -> [..., d], with weights of its own."""

    def __init__(self, heads, keys, bare, name):
        super().__init__(name)
        self.heads, self.keys, self.bare = heads, keys, bare

    def weight(self, leaf, shape, fan_in_axes):
        declared = contextlib.nullcontext() if self.bare else haiku_mup.fans(*EINSUM[leaf])
        init = hk.initializers.VarianceScaling(1.0, fan_in_axes=fan_in_axes) if fan_in_axes else jnp.ones
        with declared:
            return hk.get_parameter(leaf, shape, self.dtype, init=init)

    def __call__(self, x):
        self.dtype = x.dtype
        h = jnp.einsum("...d,dhk->...hk", x, self.weight("split", (x.shape[-1], self.heads, self.keys), [0]))
        h = jnp.tanh(h * self.weight("gain", (self.heads, self.keys), None)[None, None])
        merge = self.weight("merge", (self.heads, self.keys, x.shape[-1]), [0, 1])
        return jnp.einsum("...hk,hkd->...d", h, merge)
