"""Trajectories of microsoft/mup, reproduced in float64 from the same weights.

golden/make_microsoft_mup.py wrote the losses; golden/cases.py holds what both sides share.
"""
import functools
import importlib.util
import json
import pathlib

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup

HERE = pathlib.Path(__file__).parent / 'golden'


def load(path):
    """Loads the module in a file, whatever pytest's import mode."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases = load(HERE / 'cases.py')
GOLDEN = json.loads((HERE / 'microsoft_mup.json').read_text())
FAST = {'xla_backend_optimization_level': 0}  # compiling is nearly all the time spent here
RTOL = 1e-9  # rounding alone, carried through 20 steps, came to 5e-15 where this was written


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def mlp(model, size, x):
    with haiku_mup.apply_mup():
        for i, width in enumerate(size.widths):
            x = jax.nn.relu(hk.Linear(width, name=f'hidden{i}')(x))
        return readout(model, cases.CLASSES)(x)


def lm(model, size, tokens):  # [B, T]
    with haiku_mup.apply_mup():
        make_embed = haiku_mup.SharedEmbed if model.tied else hk.Embed
        embed = make_embed(cases.VOCAB, size.d, name='tokens')
        positions = hk.Embed(cases.LENGTH, size.d, name='positions')
        x = embed(tokens) + positions(jnp.arange(cases.LENGTH))[None]
        for i in range(cases.LAYERS):
            x = norm(f'norm{i}_1')(x + attention(size, i, x))
            h = jax.nn.relu(hk.Linear(size.ffn, name=f'up{i}')(x))
            x = norm(f'norm{i}_2')(x + hk.Linear(size.d, name=f'down{i}')(h))
        if not model.tied:
            return readout(model, cases.VOCAB)(x)
        shared = haiku_mup.SharedReadout(
            use_bias=model.readout_bias, name='readout', output_mult=model.output_mult)
        return shared(embed, x)


def cnn(model, size, images):  # [B, H, W, C]
    with haiku_mup.apply_mup():
        x = images
        for i, channels in enumerate(size.channels):
            x = hk.Conv2D(channels, 3, name=f'conv{i}')(x)
            if i < 2:
                x = hk.BatchNorm(True, True, decay_rate=0.9, name=f'norm{i}')(x, is_training=True)
            x = jax.nn.relu(x)
        return readout(model, cases.CLASSES)(x.mean((1, 2)))


def deconv(model, size, images):
    down, up = size.channels
    with haiku_mup.apply_mup():
        x = jax.nn.relu(hk.Conv2D(down, 3, name='conv0')(images))
        x = jax.nn.relu(hk.Conv2DTranspose(up, 3, stride=2, padding='VALID', name='up')(x))
        return readout(model, cases.CLASSES)(x[:, 5, 5])


def lstm(model, size, x):  # [B, T, D]
    with haiku_mup.apply_mup():
        x = hk.Linear(size.embed, name='embed')(x) if size.embed else x
        core = hk.LSTM(size.hidden, name='lstm')
        x, _ = hk.dynamic_unroll(core, x, core.initial_state(len(x)), time_major=False)
        return readout(model, cases.CLASSES)(x[:, -1])


def readout(model, n):
    if model.named:
        return lambda x: hk.Linear(n, with_bias=model.readout_bias, name='readout')(model.output_mult * x)
    return haiku_mup.Readout(
        n, with_bias=model.readout_bias, name='readout', output_mult=model.output_mult)


def norm(name):
    return hk.LayerNorm(-1, create_scale=True, create_offset=True, eps=1e-5, name=name)


def attention(size, i, x):
    causal = jnp.tril(jnp.ones((1, 1, cases.LENGTH, cases.LENGTH), bool))
    layer = haiku_mup.MultiHeadAttention(
        size.heads, size.key, w_init=hk.initializers.VarianceScaling(), model_size=size.d,
        name=f'attention{i}')
    return layer(x, x, x, mask=causal)


def loss_and_grad(apply, state, x, y):
    def loss(params):
        logits, _ = apply(params, state, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return jax.jit(jax.value_and_grad(loss), compiler_options=FAST)


def tree(weights):
    params = {}
    for name, w in weights.items():
        module, leaf = name.rsplit('/', 1)
        params.setdefault(module, {})[leaf] = jnp.asarray(w)
    return params


@functools.cache
def prepare(name, named=False, delta=True):
    """Returns (Mup, loss and gradient of the plain apply, of the wrapped one, copied parameters).

    With `named`, the readout is an hk.Linear that Mup(readouts=...) names.
    """
    model = cases.MODELS[name]
    fn = {'mlp': mlp, 'lm': lm, 'cnn': cnn, 'deconv': deconv, 'lstm': lstm}[model.kind]
    fn = functools.partial(fn, model._replace(named=named))
    base, between, target = (size and hk.without_apply_rng(hk.transform_with_state(functools.partial(fn, size)))
                             for size in (model.base, model.delta, model.target))
    mup = haiku_mup.Mup(readouts='readout' if named else ())
    key, (x, y) = jax.random.key(0), cases.data(model)
    with mup.init_base():
        jax.eval_shape(base.init, key, x)
    if between and delta:
        with mup.init_delta():
            jax.eval_shape(between.init, key, x)
    with mup.init_target():
        wanted, state = jax.eval_shape(target.init, key, x)
    params = tree(cases.weights(model, model.target))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, wanted)
    state = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), state)  # batch norm's averages, not read
    plain, wrapped = (loss_and_grad(apply, state, x, y)
                      for apply in (target.apply, mup.wrap_model(target).apply))
    return mup, plain, wrapped, params


def make_optimizer(spec):
    lr, decay = spec.lr, spec.decay
    if spec.rule == 'adam':
        return optax.adam(lr, eps=cases.EPS)
    if spec.rule == 'adamw':
        return optax.adamw(lr, eps=cases.EPS, weight_decay=decay)
    sgd = optax.sgd(lr, momentum=spec.momentum or None)
    return optax.chain(optax.add_decayed_weights(decay), sgd) if decay else sgd


def train(grad, optimizer, params):
    """Returns the loss before each step, and after the last."""
    @functools.partial(jax.jit, compiler_options=FAST)
    def step(grads, state, params):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state, losses = optimizer.init(params), []
    for _ in range(cases.STEPS + 1):
        loss, grads = grad(params)
        params, state = step(grads, state, params)
        losses.append(float(loss))
    return np.array(losses)


def errors(name, opt, losses):
    golden = np.array(GOLDEN['losses'][name][opt])
    return np.abs(losses - golden) / golden


def run(name, opt, *, named=False, plain_model=False, plain_optimizer=False, **wrong):
    """Returns the relative errors of a run, which keyword arguments (but `named`) make wrong on purpose."""
    mup, plain, wrapped, params = prepare(name, named)
    spec = cases.OPTIMIZERS[opt]
    optimizer = make_optimizer(spec)
    if not plain_optimizer:
        options = {'adam': spec.rule != 'sgd', 'scale_decay': spec.scale_decay} | wrong
        optimizer = mup.wrap_optimizer(optimizer, **options)
    return errors(name, opt, train(plain if plain_model else wrapped, optimizer, params))


@pytest.mark.parametrize('name, opt', [run for run in cases.RUNS if run[0] != 'deconv_swapped'])
def test_agrees_with_microsoft_mup(name, opt):
    error = run(name, opt)
    assert error.shape == (cases.STEPS + 1,)
    assert error.max() < RTOL, error


@pytest.mark.parametrize('name, opt', [('cnn', 'sgd'), ('cnn', 'adamw'), ('mlp_delta', 'sgd')])
def test_a_named_readout_agrees_as_well(name, opt):
    error = run(name, opt, named=True)
    assert error.max() < RTOL, error


@pytest.mark.parametrize('opt', ['sgd', 'adamw'])
def test_disagrees_where_microsoft_mup_swaps_fans(opt):
    """Its factors of nn.ConvTranspose2d agree with ours only where in and out grow alike ('deconv')."""
    error = run('deconv_swapped', opt)
    assert error[0] < RTOL and error[1] > 1e-3, error


@pytest.mark.parametrize('name', ['mlp_delta', 'lm_delta', 'cnn_delta'])
def test_delta_is_needed(name):
    with pytest.raises(haiku_mup.MupError, match='init_delta'):
        prepare(name, delta=False)


@pytest.mark.parametrize('name, opt', cases.RUNS)
def test_golden_losses_move(name, opt):
    losses = np.array(GOLDEN['losses'][name][opt])
    assert losses.min() < 0.8 * losses[0]


@pytest.mark.filterwarnings('ignore::haiku_mup.MupWarning')  # it notices most of these
@pytest.mark.parametrize('name', ['mlp_rect', 'lm_tied', 'cnn', 'lstm_uneven'])
@pytest.mark.parametrize('opt, wrong, first', [
    ('sgd', {'plain_model': True}, 0),  # `first`: the first loss that must differ
    ('sgd', {'plain_optimizer': True}, 1),
    ('sgd', {'adam': True}, 1),
    ('adam', {'plain_optimizer': True}, 1),
    ('adam', {'adam': False}, 1),
    ('adam', {'scale_eps': True}, 1),
    ('adamw', {'scale_decay': True}, 1),
    ('sgd_decay', {'scale_decay': True}, 1),
])
def test_disagrees_when_wrong(name, opt, wrong, first):
    error = run(name, opt, **wrong)
    assert (error[:first] < RTOL).all()
    assert error[first] > 10 * RTOL and error.max() > 1e-6, error


@pytest.mark.filterwarnings('ignore::haiku_mup.MupWarning')
def test_disagrees_with_haiku_attention(monkeypatch):
    monkeypatch.setattr(haiku_mup, 'MultiHeadAttention', hk.MultiHeadAttention)
    _, _, wrapped, params = prepare.__wrapped__('lm')
    assert errors('lm', 'sgd', float(wrapped(params)[0]))[0] > 1e-3
