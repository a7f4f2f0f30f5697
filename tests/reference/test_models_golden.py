"""GPT-2, BERT and RoBERTa compute what Hugging Face's do; in μP, what microsoft/mup makes of these.

golden/make_transformers.py wrote the numbers; golden/transformer_cases.py holds what both sides share.
"""
import dataclasses
import functools
import importlib.util
import json
import pathlib

import haiku as hk
import jax
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

import haiku_mup
from haiku_mup import models
from haiku_mup.models.huggingface.names import ARCHITECTURES

HERE = pathlib.Path(__file__).parent / 'golden'


def load(path):
    """Loads the module in a file, whatever pytest's import mode."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases = load(HERE / 'transformer_cases.py')
ARRAYS = dict(np.load(HERE / 'transformers.npz'))
GOLDEN = json.loads((HERE / 'transformers_mup.json').read_text())
FAST = {'xla_backend_optimization_level': 0}
RTOL, SINGLE = 1e-9, 1e-5   # of the largest entry, in double and in single precision
MUP_RTOL = 1e-8             # carried through 20 steps


def configured(case, widths=None, **ours):
    return ARCHITECTURES[case.kind].config_class(**cases.config(case, widths), **ours)


def checkpoint(folder, case, shapes, dtype, config):
    """Writes a directory as transformers would have written it."""
    tensors = {name: x.astype(dtype) for name, x in cases.weights(shapes).items()}
    save_file(tensors, folder / 'model.safetensors')
    config.to_json(folder)
    written = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({**written, 'architectures': [case.model]}))


def made(case, config):
    """Transforms the case's model."""
    def fn(**inputs):
        with haiku_mup.apply_mup():
            return getattr(models, case.model)(config)(**inputs)

    return hk.without_apply_rng(hk.transform(fn))


def loss_of(case, apply, params, inputs, labels):
    """Returns the loss, and what else is to be compared."""
    bare = case.model in ('GPT2Model', 'BertModel', 'RobertaModel')
    out = apply(params, **inputs, **({'output_hidden_states': True} if bare else {}))
    if bare:
        parts = [x for x in out[:2] if x is not None]
        loss = sum((x * cases.cotangent(x.shape)).sum() for x in parts)
        hidden = {f'hidden_{i}': x for i, x in enumerate(out.hidden_states)}
        return loss, hidden | ({} if out.pooler_output is None else {'pooled': out.pooler_output})
    if case.model == 'GPT2LMHeadModel':
        return models.cross_entropy(out[:, :-1], labels['labels'][:, 1:]), {'logits': out}
    if case.model == 'BertForPreTraining':
        loss = models.cross_entropy(out.prediction_logits, labels['labels'])
        loss += models.cross_entropy(out.seq_relationship_logits, labels['next_sentence_label'])
        return loss, {'logits': out.prediction_logits, 'relationship': out.seq_relationship_logits}
    return models.cross_entropy(out, labels['labels']), {'logits': out}


def computed(folder, name, masked, dtype, **ours):
    """Computes {what: array} of one case: loss, outputs, and the gradient of each tensor."""
    case, shapes = cases.CASES[name], GOLDEN['shapes'][name]
    checkpoint(folder, case, shapes, dtype, configured(case))
    config, params = models.load_pretrained(folder, layer_stack=ours.get('layer_stack', False))
    apply = made(case, dataclasses.replace(config, **ours)).apply
    inputs, labels = cases.data(case, masked)

    @functools.partial(jax.jit, compiler_options=FAST)
    @functools.partial(jax.value_and_grad, has_aux=True)
    def step(params):
        return loss_of(case, apply, params, inputs, labels)

    (loss, outputs), grads = step(params)
    models.save_pretrained(folder / 'gradient', config, grads)
    return {'loss': loss, **outputs, 'gradient': flat(folder / 'gradient', name)}


def flat(folder, name):
    """Returns the tensors of a checkpoint, one after the other in the order of their names."""
    found = load_file(folder / 'model.safetensors')
    if name.endswith('mlm_untied'):     # one of the biases is nobody's, and saved as the other
        found[next(key for key in found if key in ('cls.predictions.bias', 'lm_head.bias'))][:] = 0
    assert {key: list(x.shape) for key, x in found.items()} == GOLDEN['shapes'][name]
    return np.concatenate([found[key].ravel() for key in sorted(found)])


def errors(found, name, masked):
    """Returns {what: the largest difference, relative to the largest entry}."""
    key = f'{name} {"masked" if masked else "plain"} '
    golden = {what.removeprefix(key): x for what, x in ARRAYS.items() if what.startswith(key)}
    assert found.keys() == golden.keys() and {'loss', 'gradient'} < golden.keys()
    assert all(np.shape(found[what]) == x.shape for what, x in golden.items())
    return {what: float(np.abs(found[what] - x).max() / np.abs(x).max()) for what, x in golden.items()}


def rows(default):
    """Returns every case, with and without a mask; those that are not named are slow."""
    return [pytest.param(name, masked, marks=() if (name, masked) in default else pytest.mark.slow)
            for name in cases.CASES for masked in (False, True)]


@pytest.mark.parametrize('name, masked', rows({('gpt2_lm', True), ('bert_pretraining', False)}))
def test_equals_transformers(name, masked, x64, tmp_path):
    found = errors(computed(tmp_path, name, masked, np.float64), name, masked)
    assert max(found.values()) < RTOL, found


@pytest.mark.parametrize('name, masked', rows({('roberta_mlm', True)}))
def test_equals_transformers_in_single_precision_stacked_and_computed_anew(name, masked, tmp_path):
    found = errors(computed(tmp_path, name, masked, np.float32, layer_stack=True, remat=True), name, masked)
    assert max(found.values()) < SINGLE, found


@pytest.mark.slow
@pytest.mark.parametrize('name, ours', [
    ('gpt2_lm', {'attn_mult': 1.01}), ('gpt2_lm', {'output_mult': 1.01}),
    ('gpt2_lm', {'layer_norm_epsilon': 1e-4}), ('gpt2_lm', {'activation_function': 'gelu'}),
    ('bert_mlm', {'hidden_act': 'gelu_new'}),
    ('bert_mlm', {'pad_token_id': None}), ('roberta_mlm', {'pad_token_id': 2}),
    ('gpt2_lm_inverse', {'scale_attn_by_inverse_layer_idx': False})])
def test_differs_when_wrong(name, ours, x64, tmp_path):
    """An activation's approximation, a padding id that learns: such differences are seen."""
    found = errors(computed(tmp_path, name, False, np.float64, **ours), name, False)
    assert found['gradient'] > 1e3 * RTOL, found


# --- in μP ---

def trajectory(folder, name, *, adam=True, scale_decay=False, wrapped=True, **ours):
    """Returns the loss before each step, and after the last; keyword arguments make it wrong on purpose."""
    case = cases.MUP[name]
    ours = {'attn_mult': cases.ATTN_MULT, 'output_mult': cases.OUTPUT_MULT, 'layer_stack': True} | ours
    base, between, config = (configured(case, widths, **ours)
                             for widths in (cases.BASE, cases.DELTA, cases.TARGET))
    checkpoint(folder, case, GOLDEN['targets'][name], np.float64, config)
    _, params = models.load_pretrained(folder, layer_stack=True)
    inputs, labels = cases.data(case, True)
    mup, key = haiku_mup.Mup(), jax.random.key(0)
    with mup.init_base():
        jax.eval_shape(made(case, base).init, key, **inputs)
    with mup.init_delta():
        jax.eval_shape(made(case, between).init, key, **inputs)
    mup.save(folder / 'base.json')
    mup = haiku_mup.Mup.load(folder / 'base.json')
    with mup.init_target():
        jax.eval_shape(made(case, config).init, key, **inputs)
    model = mup.wrap_model(made(case, config)) if wrapped else made(case, config)
    optimizer = mup.wrap_optimizer(optax.adamw(cases.LR, eps=cases.EPS, weight_decay=cases.DECAY), adam=adam,
                                   scale_decay=scale_decay)

    @functools.partial(jax.jit, compiler_options=FAST)
    def train(params):
        def step(carry, _):
            params, state = carry
            (loss, _), grads = jax.value_and_grad(
                lambda params: loss_of(case, model.apply, params, inputs, labels), has_aux=True)(params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(step, (params, optimizer.init(params)), length=cases.STEPS + 1)[1]

    golden = np.array(GOLDEN['losses'][name])
    return np.abs(np.asarray(train(params)) / golden - 1)


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=() if name == 'gpt2_lm' else pytest.mark.slow) for name in cases.MUP])
def test_trains_as_microsoft_mup_does(name, x64, tmp_path):
    found = trajectory(tmp_path, name)
    assert found.shape == (cases.STEPS + 1,)
    assert found.max() < MUP_RTOL, found


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::haiku_mup.MupWarning')
@pytest.mark.parametrize('wrong, first', [
    ({'wrapped': False}, 0), ({'attn_mult': 1.0}, 0), ({'output_mult': 1.0}, 0), ({'adam': False}, 1),
    ({'scale_decay': True}, 1)])
@pytest.mark.parametrize('name', ['gpt2_lm', 'bert_pretraining', 'roberta_classes'])
def test_trains_otherwise_when_wrong(name, wrong, first, x64, tmp_path):
    found = trajectory(tmp_path, name, **wrong)
    assert (found[:first] < MUP_RTOL).all() and found[first] > 1e3 * MUP_RTOL, found


@pytest.mark.parametrize('name', cases.MUP)
def test_golden_losses_move(name):
    losses = np.array(GOLDEN['losses'][name])
    assert losses.min() < 0.8 * losses[0]
