"""GPT-2, BERT and RoBERTa with few parameters, a Mup that has captured them, and folders of weights."""
import dataclasses
import json

import haiku as hk
import jax
import numpy as np
from safetensors.numpy import load_file, save_file
from small_models import KEY

import haiku_mup
from haiku_mup import models

GPT2 = models.GPT2Config(vocab_size=11, n_embd=8, n_head=2, n_layer=2, n_positions=6)
BERT = models.BertConfig(vocab_size=11, hidden_size=8, num_attention_heads=2, num_hidden_layers=2,
                         intermediate_size=12, max_position_embeddings=6)
ROBERTA = models.RobertaConfig(**{**dataclasses.asdict(BERT), "max_position_embeddings": 8, "pad_token_id": 1})
IDS = np.arange(10, dtype="int32").reshape(2, 5)
CONFIGS = {"GPT2LMHeadModel": GPT2, "BertForPreTraining": BERT, "RobertaForMaskedLM": ROBERTA}


def made(name, config, **inputs):
    """Transforms the model of this name."""
    def fn(ids):
        with haiku_mup.apply_mup():
            return getattr(models, name)(config)(ids, **inputs)

    return hk.transform(fn)


def shapes(name, config, ids=IDS, **inputs):
    """Returns the shapes of the parameters; the model sees the values of `ids`, as it does outside of jit."""
    return jax.eval_shape(lambda key: made(name, config, **inputs).init(key, ids), KEY)


def drawn(name, config):
    """Draws parameters in NumPy, with the shapes that an init gives, without compiling it."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes(name, config))


def split_in_two(folder, *files):
    """Makes an index and two shards, of these names, of a folder's one file of weights."""
    file = folder / "model.safetensors"
    found = load_file(file)
    file.unlink()
    names = sorted(found)
    first, second = files or (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    shards = {first: names[:5], second: names[5:]}
    for shard, inside in shards.items():
        save_file({name: found[name] for name in inside}, folder / shard)
    index = {"weight_map": {name: shard for shard, inside in shards.items() for name in inside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def captured(name, base, target):
    """Returns a Mup that has captured the shapes of the model at two configurations."""
    mup = haiku_mup.Mup()
    with mup.init_base():
        shapes(name, base)
    with mup.init_target():
        shapes(name, target)
    return mup


def wider(config, times):
    """Returns the configuration with heads `times` as large."""
    widths = ["n_embd"] if isinstance(config, models.GPT2Config) else ["hidden_size", "intermediate_size"]
    return dataclasses.replace(config, **{width: times * getattr(config, width) for width in widths})
