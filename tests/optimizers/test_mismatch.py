"""Warnings about a rule that doesn't fit what an optimizer does."""

import optax
import pytest
from optimizer_cases import optimizer
from small_models import KEY, MODELS, captured, mlp
from trees import mapped

import haiku_mup

X = MODELS["mlp"][1]
contrib = optax.contrib


def test_each_part_of_a_partition_is_tried():
    labels = lambda params: mapped(lambda name, p: "a" if name.endswith("w") else "b", params)  # noqa: E731
    for parts, text in [((optax.adam(0.1), optax.sgd(0.1)), "/b'.*behaves like SGD"),
                        ((optax.sgd(0.1), optax.adam(0.1)), "/w'.*behaves like SGD"),
                        ((optax.sgd(0.1), optax.lamb(0.1)), "/b'.*rule='lamb'"),
                        ((optax.adam(0.1), optax.yogi(0.1)), "/b'.*rule='any'")]:
        partition = optax.partition(dict(zip("ab", parts)), labels)
        with pytest.warns(haiku_mup.MupWarning, match=text):
            captured(mlp, X).wrap_optimizer(partition)
    good = optax.partition({"a": optax.adam(0.1), "b": optax.lion(0.1)}, labels)
    captured(mlp, X).wrap_optimizer(good).init(mlp(32).init(KEY, X))


@pytest.mark.parametrize("name, rule, text", [
    ("adagrad", "sgd", "rule='any'"), ("radam", "adam", "rule='any'"), ("yogi", "sgd", "rule='any'"),
    ("adadelta", "adam", "rule='any'"), ("novograd", "adam", "rule='novograd'"),
    ("lamb", "muon", "rule='lamb'"),
    ("dog", "sgd", "rule='momo'"), ("momo_adam", "adam", "rule='momo_adam'"),
    ("galore", "adam", "there is no rule"), ("schedule_free_sgd", "sgd", "put it around"),
    ("sgd", "lamb", "adam=|rule='sgd'"), ("fromage", "lars", "decays weights"),
])
def test_another_rule_is_named_where_one_is_right(name, rule, text):
    with pytest.warns(haiku_mup.MupWarning, match=text):
        captured(mlp, X).wrap_optimizer(optimizer(name, 0.1), rule=rule)


@pytest.mark.parametrize("rule, optimizer_", [
    ("adafactor", optax.adafactor(0.1, weight_decay_rate=1e-3)), ("lamb", optax.lamb(0.1, weight_decay=1e-3)),
    ("lars", optax.lars(0.1, weight_decay=1e-3))])
def test_a_decay_that_cannot_be_mended_warns(rule, optimizer_):
    with pytest.warns(haiku_mup.MupWarning, match="decays weights.*add_decayed_weights") as seen:
        captured(mlp, X).wrap_optimizer(optimizer_, rule=rule)
    assert len(seen) == 1
