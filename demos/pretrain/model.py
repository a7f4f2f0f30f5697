"""The model."""
import argparse
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

import haiku_mup
from demos.pretrain import corpus as corpora
from haiku_mup import models

MODELS = {"gpt2": models.GPT2LMHeadModel, "bert": models.BertForMaskedLM, "roberta": models.RobertaForMaskedLM}


def config(args: argparse.Namespace, size: int, width: int) -> models.Config:
    """The configuration of a model of this width, with heads of args.head_size."""
    heads, odd = divmod(width, args.head_size)
    if odd or not heads:
        raise ValueError(f"argument --width: {width} is no multiple of --head-size {args.head_size}")
    common: dict[str, Any] = {"vocab_size": size, "layer_stack": True}
    if args.model == "gpt2":
        return models.GPT2Config(n_embd=width, n_layer=args.layers, n_head=heads, n_positions=args.length,
                                 resid_pdrop=args.dropout, embd_pdrop=args.dropout, attn_pdrop=args.dropout,
                                 **common)
    make, more = (models.BertConfig, 0) if args.model == "bert" else (models.RobertaConfig, corpora.PAD + 1)
    return make(hidden_size=width, num_hidden_layers=args.layers, num_attention_heads=heads,
                intermediate_size=4 * width, max_position_embeddings=args.length + more,
                pad_token_id=corpora.PAD, hidden_dropout_prob=args.dropout,
                attention_probs_dropout_prob=args.dropout, **common)


def transformed(args: argparse.Namespace, size: int, width: int) -> hk.Transformed:
    """The model of this width."""
    made = config(args, size, width)

    def fn(ids, is_training=False):
        with haiku_mup.apply_mup():
            return MODELS[args.model](made)(ids, is_training=is_training)

    return hk.transform(fn)


def captured(args: argparse.Namespace, size: int) -> haiku_mup.Mup:
    """The Mup of the model: relative to the base in a file, or else with itself as the base.

    With itself as the base nothing is scaled, and what it saves says that every width is one.
    """
    ids = jax.ShapeDtypeStruct((1, args.length), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def shapes(width):
        jax.eval_shape(transformed(args, size, width).init, key, ids)

    rule = haiku_mup.standard() if args.parametrization == "sp" else haiku_mup.maximal_update()
    mup = haiku_mup.Mup.load(args.base) if args.base else haiku_mup.Mup(parametrization=rule)
    if not args.base:
        with mup.init_base():
            shapes(args.width)
        with mup.init_delta():
            shapes(2 * args.width)
    with mup.init_target():
        shapes(args.width)
    return mup
