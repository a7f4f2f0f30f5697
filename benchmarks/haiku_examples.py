"""Puts Haiku's own examples in μP, unchanged, and measures their outputs over widths.

pip download --no-binary :all: --no-deps dm-haiku && tar xzf dm_haiku-*.tar.gz
python -m benchmarks.haiku_examples dm_haiku-0.0.17

The models are imported from the unpacked sdist, unchanged, and called inside `apply_mup`; their heads are named
in `Mup(readouts=...)`. Stubs replace the imports that a model doesn't need (absl, data sets).
"""
import sys
import types
from unittest import mock

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup

KEY = jax.random.PRNGKey(0)
TOKENS = jnp.arange(2 * 12).reshape(2, 12) % 20 + 1
IMAGES = jnp.sin(jnp.arange(2 * 16 * 16 * 3.0)).reshape(2, 16, 16, 3)
STUBS = ("absl", "tensorflow", "tensorflow.compat", "tensorflow.compat.v2", "tensorflow_datasets", "tree",
         "examples.rnn.dataset", "examples.transformer.dataset", "examples.imagenet.dataset")


def transformer(ids, width):
    """Applies the model of examples/transformer; its heads have one size, and grow in number."""
    from examples.transformer import model
    body = model.Transformer(num_heads=width // 8, num_layers=2, attn_size=8, dropout_rate=0.0)
    return model.LanguageModel(body, model_size=width, vocab_size=32, pad_token=0)(ids)


def rnn(ids, width):
    """Applies the model of examples/rnn, two LSTMs and an MLP, over a sequence [T, B]."""
    from examples.rnn import train
    train.dataset.NUM_CHARS, train.HIDDEN_SIZE = 32, types.SimpleNamespace(value=width)
    core = train.make_network()
    return hk.dynamic_unroll(core, ids.T, core.initial_state(ids.shape[0]))[0]


def imagenet(images, width):
    """Applies the forward function of examples/imagenet, with a ResNet whose channels can grow."""
    from examples.imagenet import train

    def resnet(classes, **kwargs):
        channels = tuple(width * k for k in (4, 8, 16, 32))
        return hk.nets.ResNet((1, 1, 1, 1), classes, channels_per_group=channels,
                              initial_conv_config={"output_channels": width},
                              logits_config={"w_init": hk.initializers.VarianceScaling()}, **kwargs)

    train.FLAGS = types.SimpleNamespace(dataset_transpose=False, model_resnet_v2=False, model_bn_decay=0.9)
    with mock.patch.object(hk.nets, "ResNet50", resnet):
        return train._forward({"images": images}, is_training=True)


# name -> model, inputs, the glob of its head, widths of which the first is the base
EXAMPLES = {
    "transformer": (transformer, TOKENS, "language_model/linear", (32, 64, 128)),
    "rnn": (rnn, TOKENS, "*mlp/~/linear_1", (32, 128, 512)),
    "imagenet": (imagenet, IMAGES, "*/logits", (4, 8, 16)),
}


def sizes(fn, inputs, readouts, base, width):
    """Returns the mean absolute output at init, and how far one step of Adam moves outputs."""
    def transformed(width):
        def model(x):
            with haiku_mup.apply_mup():
                return fn(x, width)
        return hk.transform_with_state(model)

    mup = haiku_mup.Mup(readouts=readouts)
    with mup.init_base():
        jax.eval_shape(transformed(base).init, KEY, inputs)
    with mup.init_target():
        jax.eval_shape(transformed(width).init, KEY, inputs)
    model, optimizer = mup.wrap_model(transformed(width)), mup.wrap_optimizer(optax.adam(1e-3))
    params, state = jax.jit(model.init)(KEY, inputs)

    def outputs(params):
        return model.apply(params, state, KEY, inputs)[0]

    grads = jax.jit(jax.grad(lambda p: jnp.mean((outputs(p) - 1)**2)))(params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    before, after = map(jax.jit(outputs), (params, optax.apply_updates(params, updates)))
    return float(jnp.abs(before).mean()), float(jnp.abs(after - before).mean())


def main(path):
    """Prints a row for each example and width."""
    sys.path.insert(0, path)
    stubs = {name: mock.MagicMock() for name in STUBS}
    print(f"{'example':<14}{'width':>6}{'outputs':>12}{'moved by a step':>18}")
    with mock.patch.dict(sys.modules, stubs):
        for name, (fn, inputs, readouts, widths) in EXAMPLES.items():
            for width in widths:
                start, moved = sizes(fn, inputs, readouts, widths[0], width)
                print(f"{name:<14}{width:>6}{start:>12.4f}{moved:>18.4f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
