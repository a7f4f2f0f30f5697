"""Depth of GPT-2 and BERT."""
import re

import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from deep_models import capture, completep, raises
from small_models import KEY

import haiku_mup
from haiku_mup import models

IDS = jnp.arange(6).reshape(2, 3)


def transformer(family, config):
    def fn(ids):
        with haiku_mup.apply_mup():
            return family(config)(ids)
    return hk.transform(fn)


def two_depths(mup, family, make):
    """A base of 2 layers, and a target of 6."""
    few, many = (transformer(family, make(n)) for n in (2, 6))
    with mup.init_base():
        jax.eval_shape(few.init, KEY, IDS)
    with mup.init_target():
        jax.eval_shape(many.init, KEY, IDS)
    return mup.wrap_model(many)


@pytest.mark.parametrize("stacked", [False, True])
def test_gpt2_may_have_more_layers(stacked):

    def config(layers):
        return models.GPT2Config(vocab_size=50, n_positions=8, n_embd=8, n_head=2, n_layer=layers,
                                 layer_stack=stacked)

    mup = completep()
    wrapped, rows = two_depths(mup, models.GPT2LMHeadModel, config), mup.table()
    assert {row.depth for row in rows} == {1.0, 3.0} and set(mup._target.branches.values()) == {1 / 3}
    assert all((row.depth == 3) == bool(re.search(r"/h(_\d+)?/", row.name)) for row in rows)
    assert all(row.target_std == pytest.approx(row.base_std) for row in rows)      # √(2 L) is taken back
    assert jax.eval_shape(wrapped.init, KEY, IDS)


def test_bert_which_normalises_the_stream_may_not():

    def config(layers):
        return models.BertConfig(vocab_size=50, max_position_embeddings=8, hidden_size=8, num_attention_heads=2,
                                 intermediate_size=16, num_hidden_layers=layers)

    with raises("no branch of haiku_mup.residual makes it"):
        two_depths(completep(), models.BertForMaskedLM, config)


def test_an_initializer_of_ones_own_for_each_of_one_depth_is_refused():
    """A std may depend on the depth, and on nothing else at one shape; in numbered modules, too."""
    def body(x, blocks):
        std = 0.1 if x.shape[-1] == 8 and blocks == 2 else 0.2

        def branch(x):
            return hk.Linear(x.shape[-1], w_init=hk.initializers.RandomNormal(std))(x)

        for i in range(2):
            with hk.name_scope(f"block_{i}"):
                x = haiku_mup.residual(x, branch)
        return x

    with raises("'block_0/linear/w'", "std is 0.1 at the base and 0.2 at the target"):
        capture(body, (2, 8), (6, 8))
