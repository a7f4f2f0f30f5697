"""GPT-2, BERT and RoBERTa compute what Hugging Face's do, from the same weights; in μP, what microsoft/mup makes.

golden/make_transformers.py wrote the numbers; golden/transformer_cases.py holds what both sides share.
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
from safetensors.numpy import save_file

import haiku_mup
from haiku_mup import models
from haiku_mup.models.weights import FAMILIES

HERE = pathlib.Path(__file__).parent / 'golden'


def load(path):
    """The module in a file, whatever pytest's import mode."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases = load(HERE / 'transformer_cases.py')
GOLDEN = dict(np.load(HERE / 'transformers.npz'))
MUP = json.loads((HERE / 'transformers_mup.json').read_text())
FAST = {'xla_backend_optimization_level': 0}
RTOL = 1e-9         # of the largest entry; rounding came to 4e-15 where this was written
SINGLE = 1e-5
MUP_RTOL = 1e-8     # after 20 steps; 2e-13 there


def configured(case, widths=None, **ours):
    return FAMILIES[case.kind].config(**cases.config(case, widths), **ours)


def checkpoint(folder, case, shapes, dtype, config):
    """A directory as transformers would have written it."""
    save_file({name: x.astype(dtype) for name, x in cases.weights(shapes).items()}, folder / 'model.safetensors')
    config.to_json(folder)
    written = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({**written, 'architectures': [case.model]}))


def made(case, config):
    """The case's model, transformed."""
    def fn(**inputs):
        with haiku_mup.apply_mup():
            return getattr(models, case.model)(config)(**inputs)

    return hk.without_apply_rng(hk.transform(fn))


def loss_of(case, apply, params, inputs, labels):
    """The loss, and what else is to be compared."""
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


def worst(found, golden):
    """The largest difference, relative to the largest entry."""
    assert np.shape(found) == np.shape(golden)
    return float(np.abs(np.asarray(found) - golden).max() / np.abs(golden).max())


def computed(folder, name, masked, dtype, **ours):
    """{what: array} of one case: loss, outputs, and the gradient of each tensor."""
    case, shapes = cases.CASES[name], MUP['shapes'][name]
    checkpoint(folder, case, shapes, dtype, configured(case))
    config, params = models.load_pretrained(folder, layer_stack=ours.pop('layer_stack', False))
    apply = made(case, models.Config.replace(config, **ours) if ours else config).apply
    inputs, labels = cases.data(case, masked)
    step = jax.jit(jax.value_and_grad(lambda params: loss_of(case, apply, params, inputs, labels), has_aux=True),
                   compiler_options=FAST)
    (loss, outputs), grads = step(params)
    models.save_pretrained(folder / 'gradient', config, grads)
    return {'loss': loss, **outputs, 'gradient': flat(folder / 'gradient', name)}


def flat(folder, name):
    """What a checkpoint has, one tensor after the other in the order of their names."""
    from safetensors.numpy import load_file

    found = load_file(folder / 'model.safetensors')
    if name.endswith('mlm_untied'):     # one of the biases is nobody's, and saved as the other
        found[next(key for key in found if key in ('cls.predictions.bias', 'lm_head.bias'))][:] = 0
    assert {key: list(x.shape) for key, x in found.items()} == MUP['shapes'][name]
    return np.concatenate([found[key].ravel() for key in sorted(found)])


DEFAULT = {('gpt2_lm', True), ('bert_pretraining', True), ('roberta_mlm', True), ('bert', False)}


@pytest.mark.parametrize('name, masked', [
    pytest.param(name, masked, marks=() if (name, masked) in DEFAULT else pytest.mark.slow)
    for name in cases.CASES for masked in (False, True)])
def test_equals_transformers(name, masked, x64, tmp_path):
    found = computed(tmp_path, name, masked, np.float64)
    key = f'{name} {"masked" if masked else "plain"} '
    golden = {what.removeprefix(key): x for what, x in GOLDEN.items() if what.startswith(key)}
    assert found.keys() == golden.keys() and {'loss', 'gradient'} < golden.keys()
    errors = {what: worst(found[what], x) for what, x in golden.items()}
    assert max(errors.values()) < RTOL, errors
