"""What was captured of a base, in a file: what comes back is what went in, and a bad file is an error."""
import copy
import functools
import json
import os
import pathlib
import zlib

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saved_bases
from small_models import KEY, MODELS, captured, one
from trees import equal

import haiku_mup
from haiku_mup.rules import ROLES
from haiku_mup.serialization import state_dict

PIXELS = jnp.linspace(-1, 1, 12).reshape(2, 6)


def base_of(make, inputs, width=8, **declared):
    mup = haiku_mup.Mup(**declared)
    with mup.init_base():
        jax.eval_shape(make(width).init, KEY, inputs)
    return mup


def target(mup, make, inputs, width=32):
    with mup.init_target():
        jax.eval_shape(make(width).init, KEY, inputs)
    return mup


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("how", ["file", "state dict", "json"])
def test_a_loaded_base_is_the_base(name, how, tmp_path):
    make, inputs = MODELS[name]
    mup = base_of(make, inputs)
    mup.save(tmp_path / "base.json")
    again = {"file": lambda: haiku_mup.Mup.load(str(tmp_path / "base.json")),
             "state dict": lambda: haiku_mup.Mup.from_state_dict(mup.state_dict()),
             "json": lambda: haiku_mup.Mup.from_state_dict(json.loads(json.dumps(mup.state_dict())))}[how]()
    assert again.state_dict() == mup.state_dict()
    assert target(again, make, inputs).table() == target(mup, make, inputs).table()
    params = mup.wrap_model(make(32)).init(KEY, inputs)
    assert equal(again.wrap_model(make(32)).init(KEY, inputs), params)


def lstm(x, width):
    core = hk.LSTM(width)
    return haiku_mup.Readout(3)(hk.dynamic_unroll(core, x[:, None], core.initial_state(1))[0][-1])


def test_declared_fans_readouts_parts_and_a_delta_are_kept(tmp_path):
    def fn(x, width):
        x = lstm(x, width)
        with haiku_mup.fans(0, 1):
            x = x @ hk.get_parameter("spot", (3, width), init=hk.initializers.RandomNormal())
        w = hk.get_parameter("glob", (width, width, 2), init=hk.initializers.RandomNormal())
        return hk.Linear(3, name="logits")(jnp.einsum("bi,oik->bo", x, w))

    make, inputs = one(fn)
    mup = base_of(make, inputs, fans={"~/glob": (1, 0)}, readouts="logits")
    with mup.init_delta():
        jax.eval_shape(make(16).init, KEY, inputs)
    mup.save(tmp_path / "base.json")
    again = haiku_mup.Mup.load(tmp_path / "base.json")
    for width in (8, 32):
        a, b = copy.copy(mup), haiku_mup.Mup.load(tmp_path / "base.json")
        assert target(b, make, inputs, width).table() == target(a, make, inputs, width).table()
        assert {row.role for row in b.table()} == set(ROLES)
    assert again.state_dict() == mup.state_dict()


def test_training_goes_on_from_a_checkpoint(tmp_path):
    """Base from the file, shapes by eval_shape, parameters restored: the same losses."""
    make, inputs = MODELS["mlp"]

    def losses(mup, params, state, steps):
        model, opt = mup.wrap_model(make(32)), mup.wrap_optimizer(optax.adam(0.01))
        state = opt.init(params) if state is None else state
        loss = jax.jit(jax.value_and_grad(lambda p: (model.apply(p, inputs)**2).mean()))
        found = []
        for _ in range(steps):
            value, grads = loss(params)
            updates, state = opt.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            found.append(float(value))
        return found, params, state

    mup = target(base_of(make, inputs), make, inputs)
    mup.save(tmp_path / "base.json")
    params = mup.wrap_model(make(32)).init(KEY, inputs)
    whole, *_ = losses(mup, params, None, 6)
    first, params, state = losses(mup, params, None, 3)
    again = target(haiku_mup.Mup.load(tmp_path / "base.json"), make, inputs)
    restored = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), (params, state))
    second, *_ = losses(again, *restored, 3)
    assert first + second == whole


@functools.cache
def text():
    return json.dumps(base_of(*MODELS["mlp"]).state_dict())


def edited(change):
    state = json.loads(text())
    change(state)
    return json.dumps(state)


def reseal(values):
    """As a hostile hand would: with the checksum that fits."""
    values.pop("crc")
    values["crc"] = zlib.crc32(json.dumps(values, sort_keys=True).encode())


def forged(**changes):
    def change(state):
        state["parameters"]["linear/w"].update(changes)
        reseal(state["parameters"]["linear/w"])
    return edited(change)


HEAD = [lambda state, key=key, value=value: state.update({key: value}) for key, value in (
    ("readouts", ["x"]), ("fans", {"*": [[0], [1], []]}), ("names", ["linear/w"]), ("crc", 1))]
BAD = {
    "empty": ("", "not readable as JSON"),
    "truncated": (lambda: text()[:len(text()) // 2], "truncated"),
    "not text": (b"\xff\xfe\x00", "not readable"),
    "another JSON": ("[1, 2]", "the file: a mapping should be here, and list is"),
    "null": ("null", "NoneType is"),
    "another format": ('{"format": "mup"}', "format: 'mup' is not"),
    "newer": (lambda: edited(lambda s: s.update(version=2)), "version: 2 is not 1, but newer: upgrade"),
    "version": (lambda: edited(lambda s: s.update(version="1")), "version: 1 is not 1"),
    "a bool": (lambda: edited(lambda s: s.update(version=True)), "version: True"),
    "no parameters": (lambda: edited(lambda s: s.pop("parameters")), "parameters: a mapping"),
    "a parameter gone": (lambda: edited(lambda s: s["parameters"].pop("linear/w")), "not those that were"),
    "a parameter more": (lambda: edited(lambda s: s["parameters"].update(x={})), "not those that were"),
    "a width changed": (lambda: edited(lambda s: s["parameters"]["linear/w"].update(shape=[6, 16])),
                        "'linear/w': was changed since it was saved"),
    "a std changed": (lambda: text().replace('"std": 0.3,', '"std": 0.4,'), "'linear_1/w': was changed"),
    "deep": ("[" * 100000, "not readable"),
    "deep inside": (lambda: text().replace('"parts": []', '"parts": ' + "[" * 5000 + "]" * 5000, 1),
                    "linear/w|not readable"),
    "NaN": (lambda: text().replace('"std": 0.3', '"std": NaN'), "NaN is no number of JSON's"),
    "a key twice": (lambda: text().replace('"leaf"', '"leaf": "w", "leaf"', 1), "a key appears twice"),
    "huge number": (lambda: text().replace('"shape": [6, 8]', '"shape": [6, 1' + "0" * 5000 + "]"),
                    "not readable"),
    **{f"head {i}": (functools.partial(edited, change), "the head: was changed")
       for i, change in enumerate(HEAD)},
    "forged: negative": (lambda: forged(shape=[6, -8]), r"'linear/w': shape is \[6, -8\]"),
    "forged: float": (lambda: forged(shape=[6, 8.0]), "'linear/w': shape is"),
    "forged: bool": (lambda: forged(shape=[6, True]), "'linear/w': shape is"),
    "forged: rank": (lambda: forged(shape=[6]), "don't fit shape"),
    "forged: long": (lambda: forged(shape=[1] * 100), "'linear/w': shape is"),
    "forged: large": (lambda: forged(shape=[6, 10**30]), "'linear/w': shape is"),
    "forged: std": (lambda: forged(std=-1.0), "'linear/w': std is -1.0"),
    "forged: std text": (lambda: forged(std="0.1"), "'linear/w': std is 0.1"),
    "forged: infinite": (lambda: forged(std=1e999), "Infinity is no number|std is inf|not readable"),
    "forged: drawn": (lambda: forged(drawn=1), "drawn is 1"),
    "forged: layer": (lambda: forged(layer="x"), "layer is x"),
    "forged: leaf": (lambda: forged(leaf="v"), "leaf is 'v', which is not the end of the name"),
    "forged: axes": (lambda: forged(fans=[[0], [0], []]), "don't fit"),
    "forged: parts": (lambda: forged(parts=[1, 2]), "don't add up"),
    "forged: delta": (lambda: forged(delta=[6]), "differ in rank"),
    "forged: delta parts": (lambda: forged(delta_parts=[6]), "delta_parts is"),
    "forged: a key": (lambda: forged(more=1), r"keys \['more'\] are missing or unknown"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_names_itself_and_the_entry(case, tmp_path):
    content, says = BAD[case]
    content = content() if callable(content) else content
    path = tmp_path / "base.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=says) as error:
        haiku_mup.Mup.load(path)
    assert isinstance(error.value, haiku_mup.MupError) and str(path) in str(error.value)
    assert len(str(error.value)) < 1000


def test_the_text_that_is_damaged_loads_as_it_is(tmp_path):
    (tmp_path / "base.json").write_text(text())
    assert repr(haiku_mup.Mup.load(tmp_path / "base.json")) == "Mup(base=6 parameters)"
    (tmp_path / "forged.json").write_text(forged())
    assert haiku_mup.Mup.load(tmp_path / "forged.json").state_dict() == json.loads(text())


def test_a_huge_file_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(state_dict, "MAX_BYTES", 1000)
    (tmp_path / "base.json").write_text(text())
    with pytest.raises(haiku_mup.MupError, match="more than 1000 bytes"):
        haiku_mup.Mup.load(tmp_path / "base.json")


def test_every_single_damaged_character_is_noticed_or_harmless(tmp_path):
    """Flip characters all over the file: what loads has the content that was saved."""
    rng, good = np.random.default_rng(0), text()
    wanted, path, loaded = json.loads(good), tmp_path / "base.json", 0
    for place in rng.integers(0, len(good), 300):
        letter = "0123456789x\"[]{},: "[rng.integers(19)]
        path.write_text(good[:place] + letter + good[place + 1:])
        try:
            state = haiku_mup.Mup.load(path).state_dict()
        except haiku_mup.MupError:
            continue
        loaded += 1
        assert state == wanted
    assert loaded < 60


def test_a_file_of_another_model(tmp_path):
    base_of(*MODELS["mlp"]).save(tmp_path / "base.json")
    mup = haiku_mup.Mup.load(tmp_path / "base.json")
    with pytest.raises(haiku_mup.MupError, match="(?s)no such parameter.*base.json"):
        target(mup, *MODELS["cnn"])
    with pytest.raises(haiku_mup.MupError, match="(?s)no such parameter.*base.json"):
        target(mup, *one(lambda x, w: hk.Linear(w)(x)))


def test_a_state_dict_with_tuples_and_one_that_is_none():
    make, inputs = MODELS["mlp"]
    state = base_of(make, inputs).state_dict()
    tuples = jax.tree.map(lambda x: tuple(x) if isinstance(x, list) else x, state,
                          is_leaf=lambda x: isinstance(x, list))
    assert haiku_mup.Mup.from_state_dict(tuples).state_dict() == state
    for bad in (None, {"x": jnp.ones(2)}, {1: 2}, "x", state | {"version": jnp.ones(())}):
        with pytest.raises(haiku_mup.MupError, match="the state dict: "):
            haiku_mup.Mup.from_state_dict(bad)


def test_nothing_to_save():
    with pytest.raises(haiku_mup.MupError, match="nothing to save before init_base"):
        haiku_mup.Mup().state_dict()


def test_a_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        haiku_mup.Mup.load(tmp_path / "nothing.json")
    with pytest.raises(OSError, match="nothing"):
        base_of(*MODELS["mlp"]).save(tmp_path / "nothing" / "base.json")


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_crash_leaves_the_old_file(where, tmp_path, monkeypatch):
    path = tmp_path / "base.json"
    base_of(*MODELS["mlp"]).save(path)
    before = path.read_bytes()

    def crash(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, where, crash)
    with pytest.raises(KeyboardInterrupt):
        base_of(*MODELS["cnn"]).save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["base.json"]


def test_saving_again_replaces_and_follows_links(tmp_path):
    link, path = tmp_path / "link.json", tmp_path / "base.json"
    link.symlink_to(path)
    base_of(*MODELS["cnn"]).save(path)
    base_of(*MODELS["mlp"]).save(link)
    assert link.is_symlink() and repr(haiku_mup.Mup.load(path)) == "Mup(base=6 parameters)"
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_base_after_a_load_takes_its_place(tmp_path):
    base_of(*MODELS["cnn"]).save(tmp_path / "base.json")
    mup = haiku_mup.Mup.load(tmp_path / "base.json")
    make, inputs = MODELS["mlp"]
    with mup.init_base():
        jax.eval_shape(make(8).init, KEY, inputs)
    assert target(mup, make, inputs).table() == captured(make, inputs).table()


@pytest.mark.parametrize("name", saved_bases.MODELS)
def test_a_file_of_version_0_2_0_keeps_its_meaning(name):
    """Rows of [x, h], key sizes, a delta, stacks, and declarations: the same as if captured now."""
    folder = pathlib.Path(__file__).with_name("version_0_2_0")
    mup = haiku_mup.Mup.load(folder / f"{name}.json")
    assert mup.state_dict() == json.loads((folder / f"{name}.json").read_text())
    now = saved_bases.base(name).state_dict()
    assert bool(now.pop("branch_calls", {})) == (name == "structures")         # new since then
    assert {**now, "crc": None} == {**mup.state_dict(), "crc": None}
    rows = saved_bases.rows(name, mup)
    assert rows == json.loads((folder / f"{name}.rows.json").read_text())
    assert len({row["role"] for row in rows}) == 4
