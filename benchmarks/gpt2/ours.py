"""haiku_mup's GPT-2 or Llama, plain or wrapped."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup
from benchmarks.gpt2.settings import DECAY, LENGTH, LR, llama_sizes, make_tokens
from benchmarks.language_model import training_step
from haiku_mup import models


def make_model(args, width):
    """Returns the model of a width."""
    if args.model == "llama":
        model = models.LlamaForCausalLM
        config = models.LlamaConfig(**llama_sizes(args, width), layer_stack=args.layer_stack)
    else:
        model = models.GPT2LMHeadModel
        config = models.GPT2Config(
            vocab_size=args.vocab, n_positions=LENGTH, n_embd=width, n_layer=args.blocks, n_head=args.heads,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, layer_stack=args.layer_stack)

    def fn(ids):
        with haiku_mup.apply_mup():
            return model(config)(ids)

    return hk.without_apply_rng(hk.transform(fn))


def wrap(base, model, optimizer, ids):
    """Wraps the model and the optimizer in μP."""
    mup, key = haiku_mup.Mup(), jax.random.key(0)
    with mup.init_base():
        jax.eval_shape(base.init, key, ids)
    with mup.init_target():
        jax.eval_shape(model.init, key, ids)
    return mup.wrap_model(model), mup.wrap_optimizer(optimizer)


def make_step(args):
    """Returns a function that makes one step, and returns the loss."""
    ids, model = jnp.asarray(make_tokens(args)), make_model(args, args.width)
    optimizer = optax.adamw(LR, weight_decay=DECAY)
    if args.worker == "wrapped":
        model, optimizer = wrap(make_model(args, args.width // 2), model, optimizer, ids)

    step = functools.partial(training_step(model, optimizer), ids=ids)
    params = jax.jit(model.init)(jax.random.key(0), ids)
    state = jax.jit(optimizer.init)(params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state).compile()
    carry = [params, state]
    del params, state           # donated: only `carry` may hold them

    def one_step():
        *carry[:], loss = compiled(*carry)
        return float(loss)

    return one_step
