"""What coord_check takes as a batch, a model, a loss and an optimizer; and what it says of anything else."""
import itertools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup
from haiku_mup.coordinates.batches import as_arrays, as_batches
from haiku_mup.coordinates.model_inputs import check_make_model, check_model, model_inputs

X, Y = np.ones((4, 3), np.float32), np.array([0, 1, 1, 0])


class Foreign:
    """An array of another library."""

    def __array__(self, dtype=None, copy=None):
        return np.arange(3.0)


class Loader:
    """An iterable over batches, as PyTorch's DataLoader is: no iterator itself."""

    def __iter__(self):
        return itertools.repeat((X, Y), 5)

    def __len__(self):
        return 5


def make_model(width):
    def fn(x):
        with haiku_mup.apply_mup():
            return haiku_mup.Readout(2)(jax.nn.relu(hk.Linear(width)(x)))
    return hk.transform(fn)


def make_several(width):
    """Returns a model of two functions."""
    def fn():
        encode, decode = hk.Linear(width), haiku_mup.Readout(2)

        def run(x):
            with haiku_mup.apply_mup():
                return decode(jax.nn.relu(encode(x)))
        return run, (run, encode)
    return hk.multi_transform(fn), fn


def loss_fn(apply, params, rng, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, x), y).mean()


def check(make=make_model, batch=(X, Y), loss=loss_fn, optimizer=None, **options):
    return haiku_mup.coord_check(make, (4, 8), batch, loss, optimizer or optax.adam(0.01), seeds=1,
                                 progress=False, **{"steps": 1, **options})


# --- batches ---

def test_arrays_stay_and_those_of_other_libraries_become_numpys():
    key, traced = jax.random.key(0), jnp.ones(2)
    found = as_arrays({"a": X, "b": [traced, 3], "d": (key, None), "e": Foreign()}, "", "")
    assert found["a"] is X and found["b"][0] is traced and found["b"][1] == 3 and found["d"] == (key, None)
    np.testing.assert_array_equal(found["e"], np.arange(3.0))


@pytest.mark.parametrize("wrong, said", [
    (iter([1]), "a list_iterator, an iterator; next"), ((X, (i for i in Y)), "a generator, an iterator"),
    (Loader(), "a Loader, an iterator"), (zip(X, Y), "a zip"), ({"x": "text"}, "a str, which is not an array"),
    ((X, object()), "an? object, which is not an array")])
def test_what_is_no_array_is_named(wrong, said):
    with pytest.raises(haiku_mup.MupError, match=f"data .*{said}"):
        as_arrays(wrong, "data", "next")


@pytest.mark.parametrize("several", [
    [(X, Y)] * 2, itertools.repeat((X, Y)), Loader(), ((X, Y) for _ in range(9)), np.ones((2, 4, 3))])
def test_steps_may_have_batches_of_a_sequence_or_of_an_iterator(several):
    """Of an iterator no more are taken than there are steps; it may be endless."""
    assert len(as_batches(several, 2, fix_batch=False)) == 2


def test_a_sequence_of_another_length_is_refused_and_an_iterator_that_ends_early():
    for few in ([(X, Y)] * 3, iter([(X, Y)])):
        with pytest.raises(haiku_mup.MupError, match="batches for 2 steps"):
            check(batch=few, steps=2, fix_batch=False)


@pytest.mark.parametrize("batch, said", [
    (iter([(X, Y)]), r"batch is or has a list_iterator, an iterator; give one batch, next\(iterator\)"),
    (lambda key, step: (X, Y), r"batch is a function; give what it returns, such as data\(jax.random.key")])
def test_a_batch_that_is_none_is_named(batch, said):
    with pytest.raises(haiku_mup.MupError, match=said):
        check(batch=batch)


# --- models, losses, optimizers ---

@pytest.mark.slow
@pytest.mark.parametrize("batch", [(X, Y), [X, Y]])
@pytest.mark.parametrize("make", [make_model, lambda width: hk.without_apply_rng(make_model(width))])
def test_lists_and_models_without_a_key_are_taken(batch, make):
    assert check(make, batch).findings


def test_a_model_of_several_functions_is_refused_with_what_to_write():
    """What the error says is right: the transform of one function trains, and has the same parameters."""
    several, fn = make_several(4)
    with pytest.raises(haiku_mup.MupError) as error:
        check(lambda width: make_several(width)[0], loss=lambda apply, *args: loss_fn(apply[0], *args))
    assert "MultiTransformed" in str(error.value) and "hk.transform(lambda *inputs: fn()[0](*inputs))" in str(
        error.value)
    one = hk.transform(lambda *inputs: fn()[0](*inputs))
    check_model(one)
    key = jax.random.key(0)
    shapes = [haiku_mup.get_shapes(jax.eval_shape(model.init, key, X)) for model in (several, one)]
    assert shapes[0] == shapes[1]
    with_state = hk.multi_transform_with_state(lambda: (lambda x: x, (lambda x: x,)))
    with pytest.raises(haiku_mup.MupError, match=r"hk.transform_with_state\(lambda"):
        check_model(with_state)
    with pytest.raises(haiku_mup.MupError, match="MultiTransformed"):
        check_model(hk.without_apply_rng(several))


@pytest.mark.parametrize("function", [check_model, check_make_model])
def test_what_is_no_model_is_named(function):
    with pytest.raises(haiku_mup.MupError, match="make_model"):
        function(7)


def test_a_model_in_place_of_a_function_of_the_width_is_named():
    with pytest.raises(haiku_mup.MupError, match="make_model is a Transformed; give a function from a width"):
        check(make_model(4))


@pytest.mark.parametrize("inputs", [lambda x, y: (x,), lambda x, y: ((x, y),), lambda x, y: (jnp.arange(4),)])
def test_a_loss_that_leaves_out_the_key_is_named(inputs):
    """So one would call the apply of hk.without_apply_rng."""
    def loss(apply, params, rng, batch):
        return apply(params, *inputs(*batch)).mean()

    with pytest.raises(haiku_mup.MupError, match=r"write apply\(params, rng, \*inputs\)"):
        model_inputs(loss, jax.random.key(0), (X, Y))


@pytest.mark.parametrize("rng", [
    None, 3, jax.random.key(0), jax.random.PRNGKey(0), {"dropout": jax.random.key(0)}])
def test_keys_of_every_kind_are_taken(rng):
    assert len(model_inputs(lambda apply, params, _, batch: apply(params, rng, batch), None, X).arrays) == 1


def test_a_function_of_the_rate_in_place_of_an_optimizer_is_named():
    with pytest.raises(haiku_mup.MupError, match=r"a function; give an optimizer .*optax.adam\(2\*\*-7\)"):
        check(optimizer=optax.adam)
