"""The models to train, and their Mup."""
import argparse
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

import haiku_mup
from demos.pretrain.corpus import PAD_ID
from haiku_mup import models

MODELS = {"gpt2": models.GPT2LMHeadModel, "bert": models.BertForMaskedLM, "roberta": models.RobertaForMaskedLM,
          "llama": models.LlamaForCausalLM}
MASKED = {"bert", "roberta"}            # guess masked ids; the others predict the next one


def make_config(args: argparse.Namespace, vocab_size: int, width: int) -> models.Config:
    """Returns the configuration of the model of a width, with heads of args.head_size."""
    heads, remainder = divmod(width, args.head_size)
    if remainder or not heads:
        raise ValueError(f"argument --width: {width} is no multiple of --head-size {args.head_size}")
    common: dict[str, Any] = {"vocab_size": vocab_size, "layer_stack": True}
    if args.model == "gpt2":
        return models.GPT2Config(n_embd=width, n_layer=args.layers, n_head=heads, n_positions=args.length,
                                 resid_pdrop=args.dropout, embd_pdrop=args.dropout, attn_pdrop=args.dropout,
                                 **common)
    if args.model == "llama":           # two heads a group; 8/3 of the width, rounded up to a multiple of 16
        return models.LlamaConfig(
            hidden_size=width, intermediate_size=16 * -(-width // 6), num_hidden_layers=args.layers,
            num_attention_heads=heads, num_key_value_heads=heads // 2 if heads % 2 == 0 else heads,
            max_position_embeddings=args.length, attention_dropout=args.dropout, **common)
    config_class, offset = models.BertConfig, 0
    if args.model == "roberta":             # its positions count from PAD_ID + 1
        config_class, offset = models.RobertaConfig, PAD_ID + 1
    return config_class(hidden_size=width, num_hidden_layers=args.layers, num_attention_heads=heads,
                        intermediate_size=4 * width, max_position_embeddings=args.length + offset,
                        pad_token_id=PAD_ID, hidden_dropout_prob=args.dropout,
                        attention_probs_dropout_prob=args.dropout, **common)


def make_model(args: argparse.Namespace, vocab_size: int, width: int) -> hk.Transformed:
    """Returns the model of a width."""
    config = make_config(args, vocab_size, width)

    def fn(ids, is_training=False):
        with haiku_mup.apply_mup():
            return MODELS[args.model](config)(ids, is_training=is_training)

    return hk.transform(fn)


def capture(args: argparse.Namespace, vocab_size: int) -> haiku_mup.Mup:
    """Returns the Mup of the model, relative to the base in a file, or else to itself.

    Relative to itself nothing is scaled. With twice its width as the delta, the base that it saves has every
    width as one that grows.
    """
    ids = jax.ShapeDtypeStruct((1, args.length), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def init_shapes(width):
        jax.eval_shape(make_model(args, vocab_size, width).init, key, ids)

    if args.base:
        mup = haiku_mup.Mup.load(args.base)
    else:
        standard = args.parametrization == "sp"
        mup = haiku_mup.Mup(parametrization=haiku_mup.standard() if standard else haiku_mup.maximal_update())
        with mup.init_base():
            init_shapes(args.width)
        with mup.init_delta():
            init_shapes(2 * args.width)
    with mup.init_target():
        init_shapes(args.width)
    return mup
