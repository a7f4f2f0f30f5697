"""Roles and factors that μP must give a random model's parameters, computed without the library."""
import math
import re
from typing import NamedTuple

import jax
import numpy as np
from random_models import inputs, model
from small_models import KEY

TRUNCATED = 0.87962566103423978         # std of a standard normal cut to [-2, 2]


class Expected(NamedTuple):
    """One parameter, or one block of rows of an LSTM's matrix."""

    rows: int
    role: str
    m_in: float
    m_out: float
    std_base: float
    std_plain: float                    # of the plain initializer, at the target

    def table_3(self):
        """Returns (init, SGD's lr, Adam's lr, Adam's ε) of Tensor Programs V, Table 3, relative to the base."""
        m_in, m_out = self.m_in, self.m_out
        return {"fixed": (1.0, 1.0, 1.0, 1.0),
                "input": (1.0, m_out, 1.0, 1 / m_out),
                "hidden": (m_in**-0.5, m_out / m_in, 1 / m_in, 1 / m_out),
                "output": (1 / m_in, 1 / m_in, 1 / m_in, 1.0)}[self.role]

    def table_8(self):
        """Returns (std at the target, SGD's lr, Adam's lr) of Table 8, the form with multipliers."""
        m_in, m_out = self.m_in, self.m_out
        init, sgd, adam = {"fixed": (1.0, 1.0, 1.0), "input": (1.0, m_out, 1.0), "output": (1.0, m_in, 1.0),
                           "hidden": (m_in**-0.5, m_out / m_in, 1 / m_in)}[self.role]
        return self.std_base * init, sgd, adam

    def redraw(self):
        """Returns the factor that takes a plain draw at the target to that of Table 3."""
        return self.std_base / self.std_plain * self.table_3()[0] if self.std_plain else 1.0


def expected(spec):
    """Returns {"module/name": its blocks of rows}."""
    base, delta, target = (shapes(spec, widths) for widths in (spec.base, spec.delta or spec.base, spec.target))
    return {name: _blocks(spec, name, base[name], delta[name], target[name]) for name in target}


def shapes(spec, widths):
    """Returns {"module/name": shape of one layer} of the plain model."""
    tree = jax.eval_shape(model(spec, widths, plain=True).init, KEY, *inputs())
    return {f"{module}/{leaf}": x.shape[1:] if module.startswith("stack") else x.shape
            for module, leaves in tree.items() for leaf, x in leaves.items()}


def _blocks(spec, name, *three):
    axes, stds = _axes(name), [_std(spec, name, shape) for shape in (three[0], three[2])]
    if not (name.startswith("lstm") and name.endswith("w")):
        return [_expected(axes, stds, *three)]
    states = [shape[1] // 4 for shape in three]         # the gates' columns are four states
    return [_expected(axes, stds, *((rows, shape[1]) for rows, shape in zip(sizes, three)))
            for sizes in ([shape[0] - state for shape, state in zip(three, states)], states)]


def _expected(axes, stds, base, delta, target):
    grows = [any(not base[a] == delta[a] == target[a] for a in part) for part in axes]
    ratios = [math.prod(target[a] / base[a] for a in part) for part in axes]
    role = {(0, 0): "fixed", (0, 1): "input", (1, 0): "output", (1, 1): "hidden"}[tuple(grows)]
    return Expected(target[0], role, *(r if g else 1.0 for r, g in zip(ratios, grows)), *stds)


def _axes(name):
    """Returns (fan-in axes, fan-out axes), counted from the end."""
    leaf = name.rpartition("/")[2]
    if leaf in ("b", "scale", "offset", "embeddings"):
        return (), (-1,)
    if leaf in ("split", "gain", "merge"):
        return {"split": ((-3,), (-2, -1)), "gain": ((), (-2, -1)), "merge": ((-3, -2), (-1,))}[leaf]
    return ((-1,), (-2,)) if name.startswith("transpose") else ((-2,), (-1,))


def _std(spec, name, shape):
    """Returns the std with which the initializer draws this shape, by the textbook."""
    module, _, leaf = name.rpartition("/")
    if leaf in ("scale", "offset", "gain") or (leaf == "b" and module.startswith(("lstm", "gru"))):
        return 0.0
    piece = spec.pieces[int(re.search(r"\d+", name)[0])]
    if leaf == "b":
        return {"zeros": 0.0, "constant": 0.2, "fan": 1 / math.sqrt(shape[-1])}[piece.b_init]
    kernel = math.prod(shape[:-2])
    fan_in, fan_out = kernel * shape[-2], kernel * shape[-1]       # as Haiku's initializers count
    if leaf in ("split", "merge"):
        return 1 / math.sqrt(shape[0] if leaf == "split" else shape[0] * shape[1])
    if module.startswith("gru"):
        return 1 / math.sqrt(fan_in)
    if module.startswith("lstm"):
        return TRUNCATED / math.sqrt(fan_in)
    default = 1 / math.sqrt(fan_out if name.startswith("transpose") else fan_in)
    default = 1.0 if leaf == "embeddings" else default
    default *= 1.0 if module.startswith("attention") else TRUNCATED
    return {"default": default, "constant": 0.3, "small": 0.02, "fan_out": math.sqrt(2 / fan_out),
            "fan_avg": math.sqrt(2 / (fan_in + fan_out)), "uniform": 1 / math.sqrt(fan_in),
            "orthogonal": 1 / math.sqrt(max(shape[-1], fan_in))}[piece.w_init]


def multiplier(spec, name, block):
    """Returns the forward multiplier of a parameter: of readouts, tied logits, and queries of growing keys."""
    piece = spec.pieces[int(re.search(r"\d+", name)[0])]
    if spec.tied and name == "embed0/embeddings":
        return 1 / block.m_out
    if piece.kind == "keys" and name.endswith("query/w"):
        return math.sqrt(spec.base[piece.out] / spec.target[piece.out])
    return 1 / block.m_in if block.role == "output" else 1.0


def tree(expectations, value):
    """Returns {"module": {"name": value(expected)}}: numbers, or [rows, 1] where blocks of rows differ."""
    out = {}
    for name, blocks in expectations.items():
        module, _, leaf = name.rpartition("/")
        rows = np.concatenate([np.full((block.rows, 1), value(block)) for block in blocks]) \
            if len(blocks) > 1 else value(blocks[0])
        out.setdefault(module, {})[leaf] = rows
    return out
