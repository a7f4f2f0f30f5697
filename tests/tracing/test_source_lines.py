"""Errors and warnings about a parameter have the line of the model that made it; errors come all at once."""
import functools
import gc
import pickle
import traceback
import warnings
import weakref

import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from small_models import KEY, captured, one
from transparent_stack import transparent

import haiku_mup
from haiku_mup import models

normal = hk.initializers.RandomNormal()
shifted = hk.initializers.RandomNormal(mean=1.0)


def error_of(layer, shape=(2, 6), **kwargs):
    """Returns the error of capturing layer(x, width)."""
    with pytest.raises(haiku_mup.MupError) as found:
        captured(*one(layer, shape), **kwargs)
    return found.value


def shown(error):
    """Returns what a traceback shows of an error below its own message."""
    return "".join(traceback.format_exception(error)).rpartition(str(error))[2]


def lines(error):
    """Returns the lines of models that an error's notes show."""
    return [line.strip() for line in shown(error).splitlines() if line.startswith("    ")]


# --- one parameter, one line ---

class Head(hk.Module):
    """An output layer in a module of the user's."""

    def __call__(self, x):
        return hk.Linear(3)(x)                                                  # LINE module


class Renamed(hk.Linear):
    """A subclass of a layer of Haiku's."""

    def __call__(self, inputs):
        return super().__call__(inputs)                                         # LINE subclass


def plain(x, width):
    x = hk.Linear(width)(x)
    return hk.Linear(3)(x)                                                      # LINE plain


def nested_lambda(x, width):
    call = lambda function, x: function(x)  # noqa: E731
    return call(lambda x: hk.Linear(3)(x), hk.Linear(width)(x))                 # LINE nested_lambda


def in_layer_stack(x, width):
    def block(x):
        x = hk.Linear(5)(x)                                                     # LINE in_layer_stack
        return hk.Linear(width)(x)
    return hk.layer_stack(2)(block)(hk.Linear(width)(x))


def in_transparent_stack(x, width):
    def block(x):
        x = hk.Linear(5)(x)                                # LINE in_transparent_stack
        return hk.Linear(width)(x)
    return transparent(2)(block)(hk.Linear(width)(x))


def in_remat(x, width):
    def block(x):
        return hk.Linear(3)(x)                                                  # LINE in_remat
    return hk.remat(block)(hk.Linear(width)(x))


def in_vmap(x, width):
    def block(x):
        return hk.Linear(3)(x)                                                  # LINE in_vmap
    return hk.vmap(block, split_rng=False)(hk.Linear(width)(x))


def in_lift(x, width):
    inner = hk.transform(lambda x: hk.Linear(3)(x))                             # LINE in_lift
    x = hk.Linear(width)(x)
    params = hk.lift(inner.init, name="lifted")(hk.maybe_next_rng_key(), x)
    return inner.apply(params, None, x)


def in_net_of_haiku(x, width):
    return hk.nets.MLP([width, 3])(x)                                           # LINE in_net_of_haiku


def module(x, width):
    return Head()(hk.Linear(width)(x))


def subclass(x, width):
    return Renamed(3)(hk.Linear(width)(x))


def convolution(x, width):
    x = hk.Conv1D(width, 1)(x[None])
    return hk.Conv1D(3, 1)(x)                                                   # LINE convolution


def over_several_lines(x, width):
    x = hk.Linear(width)(x)
    return hk.Sequential([                                                      # LINE over_several_lines
        jax.nn.relu,
        hk.Linear(3, name="head"),
    ])(x)


def parameter(x, width):
    x = hk.Linear(width)(x)
    return x @ hk.get_parameter("out", (width, 3), init=normal)                 # LINE parameter


def mean(x, width):
    x = hk.Linear(width)(x)
    return hk.Linear(width, w_init=shifted)(x)                                  # LINE mean


def rank(x, width):
    shape = (5, width) if width == 8 else (5, width, 2)
    return hk.get_parameter("w", shape, init=normal)                              # LINE rank


def only_at_the_base(x, width):
    x = hk.Linear(width)(x)
    return hk.LayerNorm(-1, True, width == 8)(x)                                # LINE only_at_the_base


def only_at_the_target(x, width):
    x = hk.Linear(width)(x)
    return hk.LayerNorm(-1, True, width == 32)(x)                               # LINE only_at_the_target


def creator_with_a_mean(x, width):
    x = hk.Linear(width)(x)
    with hk.custom_creator(lambda create, *args: create(*args[:-1]) + 1.0):
        return hk.Linear(width, w_init=normal)(x)                               # LINE creator_with_a_mean


def layer_of_the_library(x, width):
    x = hk.Linear(width)(x)
    return haiku_mup.Readout(width)(x)                                          # LINE layer_of_the_library


CASES = [plain, nested_lambda, in_layer_stack, in_transparent_stack, in_remat, in_vmap, in_lift,
         in_net_of_haiku, module, subclass, convolution, over_several_lines, parameter, mean, rank,
         only_at_the_base, only_at_the_target, creator_with_a_mean, layer_of_the_library]


@pytest.mark.parametrize("layer", CASES, ids=lambda layer: layer.__name__)
def test_an_error_has_the_line_of_the_users_call(layer):
    error = error_of(layer)
    assert lines(error), shown(error)
    assert all(line.endswith(f"# LINE {layer.__name__}") for line in lines(error)), shown(error)
    assert f'File "{__file__}", line ' in shown(error)


# --- warnings ---

def given_array(x, width):
    init = lambda shape, dtype: jax.random.normal(KEY, shape, dtype)  # noqa: E731
    return hk.Linear(width, w_init=init)(hk.Linear(width)(x))                   # LINE given_array


def concatenation(x, width):
    x = jnp.concatenate([hk.Linear(width)(x), x], axis=-1)
    return hk.Linear(width)(x)                                                  # LINE concatenation


def matrix_read(x, width):
    embed = hk.Embed(5, width)
    return embed(jnp.arange(2)) @ embed.embeddings.T                            # LINE matrix_read


def unused_tie(x, width):
    return haiku_mup.SharedEmbed(5, width)(jnp.arange(2))                       # LINE unused_tie


def attention(x, width):
    return hk.MultiHeadAttention(2, width // 2, w_init=normal)(x, x, x)         # LINE attention


WARNINGS = [given_array, concatenation, matrix_read, unused_tie, attention]


def source(file, number):
    with open(file, encoding="utf-8") as lines:
        return lines.read().splitlines()[number - 1]


@pytest.mark.parametrize("layer", WARNINGS, ids=lambda layer: layer.__name__)
def test_a_warning_is_given_at_the_line_of_the_users_call(layer):
    with pytest.warns(haiku_mup.MupWarning) as found:
        captured(*one(layer))
    assert len(found) == 1
    assert source(found[0].filename, found[0].lineno).endswith(f"# LINE {layer.__name__}")


@pytest.mark.parametrize("layer", WARNINGS, ids=lambda layer: layer.__name__)
def test_a_warning_that_is_made_an_error_has_the_line_in_a_note(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("error", haiku_mup.MupWarning)
        with pytest.raises(haiku_mup.MupWarning) as found:
            captured(*one(layer))
    assert any(line.endswith(f"# LINE {layer.__name__}") for line in lines(found.value))


def test_a_plain_apply_is_warned_of_at_the_line_of_the_layer():
    def head(x, width):
        x = hk.Linear(width)(x)
        return haiku_mup.Readout(3)(x)                                          # LINE head

    make, x = one(head)
    captured(make, x)
    model = make(32)
    params = haiku_mup.Mup()
    with pytest.warns(haiku_mup.MupWarning, match="wrap_model") as found:
        mup = captured(make, x)
        params = mup.wrap_model(model).init(KEY, x)
        model.apply(params, KEY, x)
    assert source(found[0].filename, found[0].lineno).endswith("# LINE head")


# --- all at once ---

def three_heads(x, width, value=1, **kwargs):
    x = jax.nn.relu(hk.Linear(width)(x))
    policy = hk.Linear(10, name="policy")(x)                                    # LINE policy
    ranking = hk.nets.MLP([width, 5], name="ranking")(x)                        # LINE ranking
    return policy, ranking, Value(value, **kwargs)(x)


class Value(hk.Module):
    def __init__(self, size, readout=hk.Linear):
        super().__init__()
        self.size, self.readout = size, readout

    def __call__(self, x):
        return self.readout(self.size, name="out")(x)                           # LINE value


def test_all_missing_readouts_are_in_one_error():
    error = error_of(three_heads)
    assert str(error).startswith(
        "'policy/w': base (8, 10), target (32, 10); 'ranking/~/linear_1/w': base (8, 5), target (32, 5); "
        "'value/out/w': base (8, 1), target (32, 1): a layer from a growing to a fixed width is an output; "
        "make it haiku_mup.Readout")
    assert [line.partition("# LINE ")[2] for line in lines(error)] == ["policy", "ranking", "value"]


def test_heads_that_are_right_are_not_in_it():
    error = error_of(functools.partial(three_heads, readout=haiku_mup.Readout))
    assert "'policy/w'" in str(error) and "value" not in str(error)
    named = haiku_mup.Mup(readouts=["policy", "ranking/*1"])
    error = error_of(functools.partial(three_heads, readout=hk.Linear), mup=named)
    assert str(error).startswith("'value/out/w': base (8, 1), target (32, 1): a layer")


def test_heads_in_contexts_of_their_own_are_in_one_error():
    """Each function of an hk.multi_transform has an apply_mup() of its own."""
    def make(width):
        def heads():
            def head(name):
                def apply(x):
                    with haiku_mup.apply_mup():
                        return hk.Linear(3, name=name)(hk.Linear(width, name=f"{name}_hidden")(x))
                return apply

            def init(x):
                return head("a")(x), head("b")(x)
            return init, (head("a"), head("b"))
        return hk.multi_transform(heads)

    with pytest.raises(haiku_mup.MupError, match=r"^'a/w': .*'b/w': .*make it haiku_mup.Readout"):
        captured(make, jnp.ones((2, 6)))


def test_a_missing_readout_beside_other_errors():
    def layer(x, width):
        x = hk.Linear(width)(x)
        hidden = hk.Linear(width, w_init=shifted, name="hidden")(x)             # LINE hidden
        return hidden, hk.Linear(3, name="a")(x), hk.Linear(4, name="b")(x)     # LINE heads

    error = error_of(layer)
    first, second = str(error).splitlines()
    assert first.startswith("'hidden/w': base (8, 8), target (32, 32): ") and "mean 1" in first
    assert second.startswith("'a/w': base (8, 3), target (32, 3); 'b/w': base (8, 4), target (32, 4): a layer")
    assert [line.partition("# LINE ")[2] for line in lines(error)] == ["hidden", "heads"]
    assert "'a/w', 'b/w': made by this line" in shown(error)


def test_a_delta_names_all_missing_readouts():
    make, x = one(three_heads)
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(make(8).init, KEY, x)
    with pytest.raises(haiku_mup.MupError, match="'policy/w'.*'ranking.*'value/out/w'") as found:
        with mup.init_delta():
            jax.eval_shape(make(16).init, KEY, x)
    assert len(lines(found.value)) == 3


@pytest.mark.parametrize("called", ["delta", "target"])
@pytest.mark.parametrize("differs, wrong", [
    ("rank", lambda x, n: hk.get_parameter("p", (2,) * n, init=jnp.zeros)),
    ("the base has no such parameter", lambda x, n: hk.Linear(2, name=f"at_{n}")(x)),
    ("grow, and nothing says which", lambda x, n: hk.get_parameter("p", (n, n, n), init=jnp.zeros)),
    ("std is", lambda x, n: hk.Linear(4, w_init=hk.initializers.RandomNormal(1 / n))(x))])
def test_errors_call_a_delta_a_delta(called, differs, wrong):
    def model(n):
        @hk.transform
        def fn(x):
            with haiku_mup.apply_mup():
                return wrong(x, n)
        return fn

    mup, x = haiku_mup.Mup(), jnp.zeros(2)
    with mup.init_base():
        jax.eval_shape(model(1).init, KEY, x)
    with pytest.raises(haiku_mup.MupError, match=differs) as found, getattr(mup, f"init_{called}")():
        jax.eval_shape(model(3).init, KEY, x)
    other = "target" if called == "delta" else "delta"
    assert called in str(found.value) and other not in str(found.value)


def test_many_errors_are_cut_short():
    def layer(x, width):
        x = hk.Linear(width)(x)
        return [hk.Linear(3, name=f"head_{i}")(x) for i in range(40)]

    error = error_of(layer)
    assert "'head_31/w'" in str(error) and "'head_32/w'" not in str(error)
    assert str(error).endswith("\nand 8 more") and len(lines(error)) == 1


# --- what a line is not ---

def test_a_loaded_base_keeps_the_lines_of_the_target(tmp_path):
    make, x = one(plain)
    mup = haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(make(8).init, KEY, x)
    assert "test_source_lines" not in str(mup.state_dict())
    mup.save(tmp_path / "base.json")
    with pytest.raises(haiku_mup.MupError, match="the base is from .*base.json") as found:
        with haiku_mup.Mup.load(tmp_path / "base.json").init_target():
            jax.eval_shape(make(32).init, KEY, x)
    assert [line.partition("# LINE ")[2] for line in lines(found.value)][-1] == "plain"


def test_two_files_with_one_model_are_one_model():
    """Equal content is one key in JAX's caches, whatever lines made it."""
    def other(x, width):
        x = hk.Linear(width)(x)
        return haiku_mup.Readout(3)(x)

    def right(x, width):
        return haiku_mup.Readout(3)(hk.Linear(width)(x))

    first, second = captured(*one(other)), captured(*one(right))
    records = [[scaling.target for scaling in mup._captured("a test").values()] for mup in (first, second)]
    assert records[0] == records[1] and [r.line for r in records[0]] != [r.line for r in records[1]]
    first.check(second.state_dict())


def test_an_error_travels_between_processes_with_its_lines():
    error = error_of(three_heads)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and lines(again) == lines(error)


def test_no_frame_is_kept():
    """A frame would keep arrays, and what is traced."""
    class Big:
        pass

    kept = []

    def layer(x, width):
        big = Big()
        kept.append(weakref.ref(big))
        return haiku_mup.Readout(3)(hk.Linear(width)(x))

    mup = captured(*one(layer))
    gc.collect()
    assert [ref() for ref in kept] == [None, None] and mup.table()


def test_the_librarys_models_are_not_the_users_lines():
    config = functools.partial(models.GPT2Config, n_head=2, vocab_size=11, n_positions=8)

    def layer(x, width):
        model = models.GPT2LMHeadModel(config(n_embd=width, n_layer=1 if width == 8 else 2))
        return model(jnp.zeros((1, 4), int))                                    # LINE model

    error = error_of(layer)
    assert "no such parameter" in str(error)
    assert [line.partition("# LINE ")[2] for line in lines(error)] == ["model"]
