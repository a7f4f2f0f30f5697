"""Writes transformers.npz and transformers_mup.json: transformer_cases.py's models, by Hugging Face.

Run it in an environment of its own; the tests that read the files need neither torch nor transformers:

    python -m venv torch-env && . torch-env/bin/activate
    pip install torch==2.13.0 transformers==5.24.0      # a CPU build is enough; nothing is downloaded
    pip install --no-deps mup==1.0.0 && pip install pandas pyyaml tqdm
    python tests/reference/golden/make_transformers.py

With folders as arguments it writes nothing, and loads with transformers what `save_pretrained` put in each,
beside inputs.npz, for ../test_models_weights.py: it saves what they compute as outputs.npz.
"""
import importlib.metadata
import json
import os
import pathlib
import sys
import warnings

os.environ['HF_HUB_OFFLINE'] = '1'
import mup
import numpy as np
import torch
import transformer_cases as cases
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

HERE = pathlib.Path(__file__).parent


def build(case, widths=None, dtype=torch.float64):
    kinds = {'gpt2': transformers.GPT2Config, 'bert': transformers.BertConfig,
             'roberta': transformers.RobertaConfig}
    config = kinds[case.kind](**cases.config(case, widths), attn_implementation='eager')
    return getattr(transformers, case.model)(config).to(dtype).eval()


def saved_shapes(net):
    """Returns {name: shape} of the tensors that transformers saves: one of those that are tied."""
    kept = {name: tuple(p.shape) for name, p in net.named_parameters()}
    return {name: shape for name, shape in kept.items() if name not in net.all_tied_weights_keys}


def copy_weights(net, values):
    """Overwrites every parameter."""
    params = dict(net.named_parameters())
    for name, value in values.items():
        value = torch.from_numpy(value)
        params.pop(name).data.copy_(value)
    assert not params.keys() - net.all_tied_weights_keys.keys(), params.keys()


def loss_of(case, net, inputs, labels):
    """Returns the loss, and what else is to be compared."""
    if case.model.endswith('Model') and 'LMHead' not in case.model:
        out = net(**inputs, output_hidden_states=True)
        parts = [out.last_hidden_state] + ([] if case.kind == 'gpt2' else [out.pooler_output])
        loss = sum((x * torch.from_numpy(cases.cotangent(x.shape))).sum() for x in parts)
        return loss, {**{f'hidden_{i}': x for i, x in enumerate(out.hidden_states)},
                      **({} if case.kind == 'gpt2' else {'pooled': out.pooler_output})}
    if case.model == 'GPT2LMHeadModel':
        logits = net(**inputs).logits       # its own loss casts the logits to float32
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels['labels'][:, 1:].flatten())
        with torch.no_grad():
            own = net(**inputs, labels=labels['labels']).loss
        assert abs(own - loss) < 1e-5, (own, loss)
        return loss, {'logits': logits}
    given = labels if case.model == 'BertForPreTraining' else {'labels': labels['labels']}
    out = net(**inputs, **given)
    if case.model == 'BertForPreTraining':
        return out.loss, {'logits': out.prediction_logits, 'relationship': out.seq_relationship_logits}
    return out.loss, {'logits': out.logits}


def gradient(net):
    """Returns the gradients of all saved tensors, one after the other in the order of their names."""
    params = dict(net.named_parameters())
    parts = [(params[name].grad, shape) for name, shape in sorted(saved_shapes(net).items())]
    return np.concatenate([np.zeros(shape).ravel() if x is None else x.numpy().ravel() for x, shape in parts])


def tensors(case, masked):
    return ({name: torch.from_numpy(x) for name, x in part.items()} for part in cases.data(case, masked))


def parity():
    """Returns {key: array} of all cases."""
    found = {}
    for name, case in cases.CASES.items():
        net = build(case)
        copy_weights(net, cases.weights(saved_shapes(net)))
        for masked in (False, True):
            net.zero_grad()
            loss, outputs = loss_of(case, net, *tensors(case, masked))
            loss.backward()
            key = f'{name} {"masked" if masked else "plain"}'
            found[f'{key} loss'] = loss.detach().numpy()
            found |= {f'{key} {what}': x.detach().numpy() for what, x in outputs.items()}
            found[f'{key} gradient'] = gradient(net)
            print(key, float(loss))
    return found


# --- microsoft/mup on the same models ---

def linear(net):
    """Replaces Conv1D, whose matrix is (in, out) and whose fans mup would swap, by nn.Linear."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv1D):
                setattr(module, name, nn.Linear(*child.weight.shape, dtype=child.weight.dtype))
    return net


def with_readouts(case, net):
    """Replaces output layers by mup's readouts."""
    kwargs = {'output_mult': cases.OUTPUT_MULT, 'dtype': torch.float64}

    def head(old, tied):
        if not net.config.tie_word_embeddings or tied is None:
            return mup.MuReadout(old.in_features, old.out_features, bias=old.bias is not None, **kwargs)
        shared = mup.MuSharedReadout(tied, bias=False, **kwargs)
        if old.bias is not None:            # mup 1.0.0's own has the length of the width
            shared.bias = nn.Parameter(torch.zeros(len(tied), dtype=torch.float64))
        return shared

    embedding = net.get_input_embeddings().weight
    if case.kind == 'gpt2':
        net.lm_head = head(net.lm_head, embedding)
    elif 'Sequence' in case.model and case.kind == 'bert':
        net.classifier = head(net.classifier, None)
    elif 'Sequence' in case.model:
        net.classifier.out_proj = head(net.classifier.out_proj, None)
    elif case.kind == 'bert':
        net.cls.predictions.decoder = head(net.cls.predictions.decoder, embedding)
    else:
        net.lm_head.decoder = head(net.lm_head.decoder, embedding)
    if case.model == 'BertForPreTraining':
        net.cls.seq_relationship = head(net.cls.seq_relationship, None)
    return net


def in_mup(case):
    shapes = saved_shapes(build(case, cases.TARGET))
    base, delta, net = (with_readouts(case, linear(build(case, widths)))
                        for widths in (cases.BASE, cases.DELTA, cases.TARGET))
    mup.set_base_shapes(net, base, delta=delta)
    size, base_size = (w.width // w.heads for w in (cases.TARGET, cases.BASE))
    for module in net.modules():
        if hasattr(module, 'scaling'):      # the attentions': 1 / √d at the base, 1 / d in growth
            module.scaling = cases.ATTN_MULT * base_size**0.5 / size
    params = dict(net.named_parameters())
    for name, value in cases.weights(shapes).items():
        value = torch.from_numpy(value)
        if name in ('cls.predictions.bias', 'lm_head.bias'):    # the readout's own, unless that is there, too
            inner = name.replace('.bias', '.decoder.bias')
            params.pop(name)
            name = name if inner in shapes else inner
        if name in params:
            params.pop(name).data.copy_(value.T if '.c_' in name and name.endswith('weight') else value)
    assert not params.keys() - {'cls.predictions.decoder.weight', 'lm_head.decoder.weight', 'lm_head.weight'}
    return net


def trajectory(case):
    """Returns the loss before each step, and after the last."""
    net, losses = in_mup(case), []
    optimizer = mup.MuAdamW(net.parameters(), lr=cases.LR, eps=cases.EPS, weight_decay=cases.DECAY)
    inputs, labels = map(dict, tensors(case, True))
    for _ in range(cases.STEPS + 1):
        loss, _ = loss_of(case, net, inputs, labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


# --- what save_pretrained wrote ---

def outputs(folder):
    """Returns what transformers computes with the model in a folder."""
    inputs = {name: torch.from_numpy(x) for name, x in np.load(folder / 'inputs.npz').items()}
    model = json.loads((folder / 'config.json').read_text())['architectures'][0]
    net, info = getattr(transformers, model).from_pretrained(
        folder, attn_implementation='eager', output_loading_info=True, dtype=torch.float64)
    problems = {what: sorted(map(str, names)) for what, names in info.items() if names}
    with torch.no_grad():
        out = net.eval()(**inputs)
    found = {name: x.numpy() for name, x in out.items() if isinstance(x, torch.Tensor)}
    np.savez(folder / 'outputs.npz', problems=json.dumps(problems), **found)


def main():
    warnings.simplefilter('ignore')
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for folder in sys.argv[1:]:
        outputs(pathlib.Path(folder))
    if sys.argv[1:]:
        return
    np.savez_compressed(HERE / 'transformers.npz', **parity())
    losses = {name: trajectory(case) for name, case in cases.MUP.items()}
    for name, values in losses.items():
        print(f'{name:20}', *(f'{v:8.4f}' for v in values[::4]))
    shapes = {name: {key: list(shape) for key, shape in saved_shapes(build(case)).items()}
              for name, case in cases.CASES.items()}
    targets = {name: {key: list(shape) for key, shape in saved_shapes(build(case, cases.TARGET)).items()}
               for name, case in cases.MUP.items()}
    versions = {name: importlib.metadata.version(name) for name in ('torch', 'transformers', 'mup', 'numpy')}
    text = json.dumps({'versions': versions, 'losses': losses, 'shapes': shapes, 'targets': targets})
    (HERE / 'transformers_mup.json').write_text(text.replace('}, ', '},\n').replace('], "', '],\n"') + '\n')


if __name__ == '__main__':
    main()
