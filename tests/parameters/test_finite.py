"""Sizes that differ between base and target and are no widths: features, classes, labels, positions."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from remedies import codes, followed, told
from small_models import KEY, captured, one

import haiku_mup
from haiku_mup import models

NORMAL = hk.initializers.RandomNormal(0.1)
TRUNCATED = 0.87962566103423978         # std of a standard normal cut to [-2, 2]


def of_features(layer, base=12, target=147):
    """Returns capture(mup) of layer(x, width) from width 8 to 32, with other numbers of features."""
    make, _ = one(layer)

    def capture(mup):
        for context, width, features in ((mup.init_base, 8, base), (mup.init_target, 32, target)):
            with context():
                jax.eval_shape(make(width).init, KEY, jnp.ones((2, features)))
    return capture


def mlp(x, width, classes=None, w_init=None):
    return haiku_mup.Readout(classes or 3)(jax.nn.relu(hk.Linear(width, w_init=w_init)(x)))


def of_classes(layer):
    """Returns capture(mup) of a model whose number of classes differs."""
    make, x = one(layer)
    return lambda mup: captured(make, x, mup=mup)


@pytest.mark.parametrize("w_init, base, target", [
    (None, TRUNCATED / 12**0.5, TRUNCATED / 147**0.5), (NORMAL, 0.1, 0.1),
    (hk.initializers.VarianceScaling(2.0), (2 / 12)**0.5, (2 / 147)**0.5),
    (hk.initializers.VarianceScaling(1.0, "fan_avg"), (2 / 20)**0.5, (2 / (147 + 8))**0.5),
    (hk.initializers.VarianceScaling(1.0, "fan_out"), 8**-0.5, 8**-0.5)])
def test_features_by_hand(w_init, base, target):
    """An input weight has the base's std for its own number of features, and the rates of an input."""
    mup = haiku_mup.Mup(finite={"linear/w": "in"})
    assert told(of_features(functools.partial(mlp, w_init=w_init)), mup) == []
    row = {row.name: row for row in mup.table()}["linear/w"]
    assert (row.role, row.adam_lr, row.sgd_lr) == ("input", 1, 4)
    np.testing.assert_allclose((row.base_std, row.target_std), (base, target), rtol=1e-6)


def test_features_are_told_and_what_is_told_is_right():
    (text,) = told(of_features(mlp))
    assert "'linear/w'" in text and "× 12.25" in text
    row = followed(of_features(mlp), codes(text)[0])["linear/w"]
    assert (row.role, row.adam_lr, row.sgd_lr) == ("input", 1, 4)


def test_draws_have_that_std():
    mup = haiku_mup.Mup(finite={"linear/w": "in"})
    of_features(mlp)(mup)
    make, _ = one(mlp)
    w = mup.wrap_model(make(32)).init(KEY, jnp.ones((2, 147)))["linear"]["w"]
    assert w.std() * 147**0.5 == pytest.approx(TRUNCATED, rel=0.03)         # 4704 entries: 1 % is one error


def test_features_of_an_lstm():
    """The rows of x are an input's with another number of them, the rows of h hidden."""
    def layer(x, width):
        core = hk.LSTM(width)
        return haiku_mup.Readout(3)(core(x, core.initial_state(2))[0])

    (text,) = told(of_features(layer))
    rows = followed(of_features(layer), codes(text)[0])
    x, h = rows["lstm/linear/w[0:147]"], rows["lstm/linear/w[147:179]"]
    assert [(row.role, row.adam_lr, row.sgd_lr) for row in (x, h)] == [("input", 1, 4), ("hidden", 1 / 4, 1)]
    plain = TRUNCATED / (147 + 8)**0.5          # as the base would draw with the target's features
    np.testing.assert_allclose((x.target_std, h.target_std), (plain, plain / 2), rtol=1e-6)


HEADS = {
    "linear": (lambda n: haiku_mup.Readout(n, name="head"), ()),
    "without bias": (lambda n: haiku_mup.Readout(n, False, name="head"), ()),
    "channels first": (lambda n: lambda x: haiku_mup.ConvReadout(
        2, n, 3, data_format="NCHW", name="head")(x.reshape(2, -1, 2, 1).repeat(2, -1)), ()),
    "by name": (lambda n: hk.Linear(n, name="head"), "head"),
    "transposed, by name": (lambda n: lambda x: hk.Conv1DTranspose(n, 3, name="head")(x[:, None]), "head"),
}


@pytest.mark.parametrize("head", HEADS)
def test_classes_are_told_and_what_is_told_is_right_for_the_bias_too(head):
    make_head, readouts = HEADS[head]

    def layer(x, width):
        return make_head({8: 4, 32: 9}[width])(jax.nn.relu(hk.Linear(2 * width)(x)))

    capture = of_classes(layer)
    (text,) = told(capture, haiku_mup.Mup(readouts=readouts))
    code = codes(text)[-1]
    rows = followed(capture, f"{code[:-1]}, readouts={readouts!r})")
    w = rows["head/w"]
    assert (w.role, w.multiplier, w.adam_lr, w.sgd_lr) == ("output", 1 / 4, 1, 4)
    assert w.target_std == pytest.approx(w.base_std)
    if head != "without bias":
        assert (rows["head/b"].role, rows["head/b"].sgd_lr) == ("fixed", 1)


def test_positions_of_a_table_of_ones_own():
    def layer(x, width):
        places = hk.get_parameter("places", [{8: 64, 32: 512}[width], width], init=NORMAL)
        return haiku_mup.Readout(3)(hk.Linear(width)(x) + places[:2])

    (text,) = told(of_classes(layer))
    assert "a table of which rows are looked up" in text
    for code in (codes(text)[-1], "Mup(finite={'~/places': 0})"):
        row = (followed(of_classes(layer), code))["~/places"]
        assert (row.role, row.adam_lr, row.sgd_lr) == ("input", 1, 4)


def test_positions_of_one_size():
    """Positions differ in number, and the other axis stays."""
    def layer(x, width):
        hk.get_parameter("places", [{8: 64, 32: 512}[width], 5], init=NORMAL)
        return mlp(x, width)

    (text,) = told(of_classes(layer))
    code = next(code for code in codes(text) if "finite" in code)
    assert followed(of_classes(layer), code)["~/places"].role == "fixed"


# --- models of the library ---

def bert(labels):
    def layer(x, width):
        config = models.BertConfig(
            vocab_size=64, max_position_embeddings=16, hidden_size=width, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=2 * width, num_labels=labels[width])
        return models.BertForSequenceClassification(config)(x)
    return layer


def gpt2(tied):
    def layer(x, width):
        config = models.GPT2Config(vocab_size=width + 5, n_positions=2 * width, n_embd=width, n_layer=1,
                                   n_head=2, tie_word_embeddings=tied)
        return models.GPT2LMHeadModel(config)(x)
    return layer


@pytest.mark.parametrize("layer, name, multiplier", [
    (bert({8: 2, 32: 5}), "classifier/w", 1 / 4), (gpt2(False), "lm_head/w", 1 / 4),
    (gpt2(True), "wte/embeddings", 1 / 4)], ids=["labels", "vocabulary", "tied"])
def test_models_of_the_library_need_no_declaration(layer, name, multiplier):
    mup, make = haiku_mup.Mup(), one(layer)[0]
    assert told(lambda mup: captured(make, jnp.ones((2, 8), int), mup=mup), mup) == []
    row = next(row for row in mup.table() if row.name.endswith(name))
    assert (row.role, row.multiplier) == ("input" if "embed" in name else "output", multiplier)
    biases = [row for row in mup.table() if row.base_shape in ((2,), (13,))]
    assert all((row.role, row.sgd_lr) == ("fixed", 1) for row in biases)


# --- what can't be right ---

@pytest.mark.parametrize("finite, says", [
    ({"linear/w": "up"}, "give \"in\", \"out\", or axes"), ({"linear/w": 1.0}, "give \"in\", \"out\", or axes"),
    ({"linear/w": 2}, "finite axes .* name one that it doesn't have"),
    ({"nothing/*": "in"}, "Mup\\(finite=...\\): 'nothing/\\*' matches the name of no parameter"),
    (["linear/w"], "^finite: ")])
def test_wrong_declarations(finite, says):
    with pytest.raises(haiku_mup.MupError, match=says):
        of_features(mlp)(haiku_mup.Mup(finite=finite))


def test_a_std_that_no_law_explains():
    def layer(x, width):
        return mlp(x, width, w_init=hk.initializers.RandomNormal(1 / x.shape[-1]))

    with pytest.raises(haiku_mup.MupError, match="neither its fan-in nor its fan-out explains"):
        of_features(layer)(haiku_mup.Mup(finite={"linear/w": "in"}))


def test_without_a_difference_nothing_changes():
    def capture(mup):
        of_features(mlp, 12, 12)(mup)
        return mup.table()

    assert capture(haiku_mup.Mup(finite={"*": "in"})) != capture(haiku_mup.Mup())       # it grows
    assert capture(haiku_mup.Mup(finite={"linear/w": "in", "readout/*": "out"})) == capture(haiku_mup.Mup())


def test_a_base_that_is_saved_keeps_them():
    mup = haiku_mup.Mup(finite={"linear/w": "in", "readout/w": -1}, tied=())
    of_features(mlp)(mup)
    again = haiku_mup.Mup.from_state_dict(mup.state_dict())
    with again.init_target():
        jax.eval_shape(one(mlp)[0](32).init, KEY, jnp.ones((2, 147)))
    assert again.table() == mup.table()
