"""Does the best learning rate move with the width? A transformer that reads the Bible, standard and in μP."""
import functools
import pathlib
import sys

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup
from demos.common import flags, losses, sweeps, texts

PROG = "python -m demos.text_transformer"
BASE, HEAD, BLOCKS, LENGTH, BATCH, VALID = 32, 16, 3, 32, 8, 40
SIZES = {"default": {"widths": "32,64,128", "log2_lrs": "-9.5:-4.5:0.5", "seeds": "1", "steps": "300"},
         "quick": {"widths": "32,128", "log2_lrs": "-9:-4:1", "steps": "100"}}
FIGURES = {"valid_perplexity": "text_transformer.png"}


# --- the experiment ---

def network(ids, width, words):
    """Logits [batch, length, words] of the words that follow ids [batch, length], each from those up to it.

    The size of heads is fixed: a model that is twice as wide has twice as many, from two at the base. Embedding
    and readout are matrices of their own.
    """
    init, noise = hk.initializers.VarianceScaling(), hk.initializers.RandomNormal()
    causal = jnp.tril(jnp.ones((1, 1, ids.shape[1], ids.shape[1])))
    norm = functools.partial(hk.LayerNorm, -1, True, True)

    def block(x):
        y = norm()(x)
        x = x + haiku_mup.MultiHeadAttention(width // HEAD, HEAD, w_init=init)(y, y, y, causal)
        return x + hk.Linear(width)(jax.nn.gelu(hk.Linear(4 * width)(norm()(x))))

    with haiku_mup.apply_mup():
        x = hk.Embed(words, width, w_init=noise)(ids)
        x = x + jnp.broadcast_to(hk.get_parameter("places", (LENGTH, width), init=noise), x.shape)
        x = hk.experimental.layer_stack(BLOCKS)(block)(x)
        return haiku_mup.Readout(words, with_bias=False)(norm()(x))


def make_trials(args, data):
    """{parametrization: make_trial}"""
    train, held = jnp.asarray(data.train), jnp.asarray(data.valid)
    batches = min(VALID, (len(held) - 1) // (BATCH * LENGTH))
    blocks = rows(held, LENGTH * jnp.arange(batches * BATCH).reshape(batches, BATCH))

    def make_model(width):
        return hk.transform(functools.partial(network, width=width, words=len(data.words)))

    def batch(key, step):
        """The words of BATCH places in the training part, and those that follow them."""
        return rows(train, jax.random.randint(key, (BATCH,), 0, len(train) - LENGTH))

    def perplexity(apply, params, rng):
        """That of the first words of the validation part."""
        found = jax.lax.map(lambda row: losses.cross_entropy(apply, params, rng, row), blocks)
        return jnp.exp(found.mean())

    return {name: haiku_mup.training(
        make_model, batch, losses.cross_entropy, optax.adam, steps=args.steps, base_width=BASE,
        parametrization=name, evaluate={"valid_perplexity": perplexity}) for name in args.parametrization}


def rows(words, starts):
    """LENGTH words from each start on, and those that follow them; both [..., LENGTH]."""
    places = starts[..., None] + jnp.arange(LENGTH).reshape(*[1] * starts.ndim, LENGTH)
    return words[places], words[places + 1]


def read(args):
    """The text; says on screen what it is."""
    odd = [width for width in args.widths if width % HEAD]
    if odd:
        raise ValueError(f"argument --widths: {odd[0]}: give multiples of {HEAD}, the size of a head")
    return texts.told(args.text)


# --- the command line ---

def add(it):
    """The flags of this demo alone."""
    it.add_argument("--steps", type=flags.count, help=f"of {BATCH} rows of {LENGTH} words; default: "
                    + SIZES["default"]["steps"])
    it.add_argument("--text", type=pathlib.Path, metavar="FILE",
                    help="a text to read in place of the Bible, such as the Penn Treebank's, in UTF-8")


def title(args, data):
    return (f"transformer with {BLOCKS} blocks, Adam, {args.steps} steps of {BATCH * LENGTH} words of "
            f"{data.source}")


DEMO = sweeps.Demo(
    PROG, __doc__, SIZES, {"quick": "less than 2 minutes"}, FIGURES, add, read, make_trials, title,
    {"base_width": BASE, "head_size": HEAD, "blocks": BLOCKS, "length": LENGTH, "batch": BATCH})


def main(argv=None):
    """Runs the demo; returns its exit code."""
    return sweeps.main(DEMO, argv)


if __name__ == "__main__":
    sys.exit(main())
