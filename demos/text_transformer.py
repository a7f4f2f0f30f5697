"""Sweeps learning rates over widths: a transformer that reads the Bible, standard and in μP."""
import functools
import pathlib
import sys

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup
from demos.common import flags, losses, sweeps, words
from haiku_mup import models

PROG = "python -m demos.text_transformer"
BASE, HEAD, BLOCKS, LENGTH, BATCH = 32, 16, 3, 32, 8
VALID = 40                          # batches to validate, at most
SIZES = {"default": {"widths": "32,64,128", "log2_lrs": "-9.5:-4.5:0.5", "seeds": "1", "steps": "300"},
         "quick": {"widths": "32,128", "log2_lrs": "-9:-4:1", "steps": "100"}}
FIGURES = {"valid_perplexity": "text_transformer.png"}


# --- the experiment ---

def network(ids, width, vocab_size):
    """Maps ids [batch, length] to logits [batch, length, vocab_size] of the next words.

    Heads have one size: a model that is twice as wide has twice as many, from two at the base. Embedding and
    readout are separate matrices.
    """
    init, unit_normal = hk.initializers.VarianceScaling(), hk.initializers.RandomNormal()
    causal = jnp.tril(jnp.ones((1, 1, ids.shape[1], ids.shape[1])))
    norm = functools.partial(hk.LayerNorm, -1, True, True)

    def block(x):
        y = norm()(x)
        x = x + haiku_mup.MultiHeadAttention(width // HEAD, HEAD, w_init=init)(y, y, y, causal)
        return x + hk.Linear(width)(jax.nn.gelu(hk.Linear(4 * width)(norm()(x))))

    with haiku_mup.apply_mup():
        x = hk.Embed(vocab_size, width, w_init=unit_normal)(ids)
        x = x + jnp.broadcast_to(hk.get_parameter("places", (LENGTH, width), init=unit_normal), x.shape)
        x = hk.experimental.layer_stack(BLOCKS)(block)(x)
        return haiku_mup.Readout(vocab_size, with_bias=False)(norm()(x))


def llama(ids, width, vocab_size):
    """Maps ids as `network` does, by a Llama of as many blocks and heads; two share keys and values."""
    heads = width // HEAD
    config = models.LlamaConfig(
        vocab_size=vocab_size, hidden_size=width, intermediate_size=16 * -(-width // 6),
        num_hidden_layers=BLOCKS, num_attention_heads=heads,
        num_key_value_heads=heads // 2 if heads % 2 == 0 else heads,
        initializer_range=BASE**-0.5, max_position_embeddings=LENGTH, layer_stack=True)
    with haiku_mup.apply_mup():
        return models.LlamaForCausalLM(config)(ids)


NETWORKS = {"own": network, "llama": llama}


def make_trials(args, data):
    """Returns {parametrization: make_trial}."""
    train, valid = jnp.asarray(data.train), jnp.asarray(data.valid)
    batches = min(VALID, (len(valid) - 1) // (BATCH * LENGTH))
    valid_batches = rows(valid, LENGTH * jnp.arange(batches * BATCH).reshape(batches, BATCH))

    def make_model(width):
        return hk.transform(functools.partial(NETWORKS[args.model], width=width, vocab_size=len(data.words)))

    def batch(key, step):
        """Draws BATCH rows of the training part."""
        return rows(train, jax.random.randint(key, (BATCH,), 0, len(train) - LENGTH))

    def perplexity(apply, params, rng):
        """Computes the perplexity of the first words of the validation part."""
        found = jax.lax.map(lambda row: losses.cross_entropy(apply, params, rng, row), valid_batches)
        return jnp.exp(found.mean())

    return {name: haiku_mup.training(
        make_model, batch, losses.cross_entropy, optax.adam, steps=args.steps, base_width=BASE,
        parametrization=name, evaluate={"valid_perplexity": perplexity}) for name in args.parametrization}


def rows(ids, starts):
    """Returns LENGTH words from each start on, and the next word of each; both [..., LENGTH]."""
    positions = starts[..., None] + jnp.arange(LENGTH).reshape(*[1] * starts.ndim, LENGTH)
    return ids[positions], ids[positions + 1]


def load(args):
    """Loads the text, and prints its source."""
    invalid = [width for width in args.widths if width % HEAD]
    if invalid:
        raise ValueError(f"argument --widths: {invalid[0]}: give multiples of {HEAD}, the size of a head")
    return words.load_and_print_source(args.text)


# --- the command line ---

def add_flags(parser):
    """Adds the flags that only this demo has."""
    parser.add_argument("--model", choices=NETWORKS, default="own",
                        help="this file's own transformer, or haiku_mup's Llama; default: own")
    parser.add_argument("--steps", type=flags.positive_int, help=f"of {BATCH} rows of {LENGTH} words; default: "
                        + SIZES["default"]["steps"])
    parser.add_argument("--text", type=pathlib.Path, metavar="FILE",
                        help="a text to read in place of the Bible, such as the Penn Treebank's, in UTF-8")


def title(args, data):
    name = "Llama" if args.model == "llama" else "transformer"
    return (f"{name} with {BLOCKS} blocks, Adam, {args.steps} steps of {BATCH * LENGTH} words of "
            f"{data.source}")


DEMO = sweeps.SweepDemo(
    prog=PROG, description=__doc__, sizes=SIZES, durations={"quick": "less than 2 minutes"}, figures=FIGURES,
    add_flags=add_flags, load=load, make_trials=make_trials, title=title,
    settings={"base_width": BASE, "head_size": HEAD, "blocks": BLOCKS, "length": LENGTH, "batch": BATCH})


def main(argv=None):
    """Runs the demo; returns its exit code."""
    return sweeps.main(DEMO, argv)


if __name__ == "__main__":
    sys.exit(main())
