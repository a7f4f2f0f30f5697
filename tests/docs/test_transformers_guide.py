"""docs/guides/transformers.rst: its diff makes GPT-2 in μP of GPT-2, and each step of it is needed."""
import difflib
import functools
import os
import pathlib
import re
import subprocess
import sys

import haiku as hk
import jax
import numpy as np
import optax
import pytest
from guide_models import assert_plain_at_the_base, assert_same_in_mup
from small_models import captured

import haiku_mup
from demos.common import losses
from haiku_mup import models

DOCS = pathlib.Path(__file__).parents[2] / "docs"
IDS = np.random.default_rng(0).integers(0, 64, (8, 17))
INPUTS = IDS[:, :-1]
OWN_LOGITS = ", q, k) / math.sqrt(size)", ", q, k) * math.sqrt(16) / size       # 16 at the base"


def example(name, *changes):
    """Returns what an example defines, after these replacements in its source."""
    source = (DOCS / "examples" / name).read_text(encoding="utf-8")
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    names = {}
    exec(compile(source, name, "exec"), names)
    return names


def gpt2(*changes, name="gpt2_mup.py", **settings):
    """Returns make(width) of an example's GPT-2."""
    fn = example(name, *changes)["gpt2"]
    return lambda width: hk.transform(functools.partial(fn, width=width, **settings))


# --- GPT-2 and the diff ---

def patched(text, diff):
    """Applies a unified diff to a text; fails where it doesn't fit."""
    old, new, place = text.splitlines(keepends=True), [], 0
    for line in diff.splitlines(keepends=True)[2:]:
        head = re.match(r"@@ -(\d+)", line)
        if head:
            start = int(head[1]) - 1
            new, place = new + old[place:start], start
        elif line[0] == "+":
            new.append(line[1:])
        else:
            assert old[place] == line[1:]
            new, place = new + [line[1:]] * (line[0] == " "), place + 1
    return "".join(new + old[place:])


def test_the_diff_makes_one_of_the_other():
    plain, ours, diff = ((DOCS / "examples" / name).read_text(encoding="utf-8").replace("in μP.", "…")
                         for name in ("gpt2.py", "gpt2_mup.py", "gpt2.diff"))
    assert patched(plain, diff) == ours
    lines = list(difflib.ndiff(plain.splitlines(), ours.splitlines()))
    assert sum(line[0] == "+" and line[1:].strip() != "" for line in lines) == 5
    assert "haiku_mup" not in plain
    assert "(five lines)" in (DOCS / "guides" / "transformers.rst").read_text(encoding="utf-8")


def config(width):
    return models.GPT2Config(vocab_size=64, n_embd=width, n_head=4, n_layer=1, n_positions=32, resid_pdrop=0.0,
                             embd_pdrop=0.0, attn_pdrop=0.0)


def library(width):
    """Returns make(width) of the library's GPT-2."""
    def fn(ids):
        with haiku_mup.apply_mup():
            return models.GPT2LMHeadModel(config(width))(ids)
    return hk.transform(fn)


def renamed(module):
    """Returns the example's name for a module of the library."""
    return module.removeprefix("gpt2_lm_head_model/transformer/").replace("/attn/", "/")


def test_it_is_the_librarys_gpt2_in_mup(x64):
    assert_same_in_mup(gpt2(blocks=1), library, renamed, IDS, shift=0.1)


def test_at_the_base_it_is_the_plain_one():
    assert_plain_at_the_base(gpt2(name="gpt2.py", blocks=1), gpt2(blocks=1), INPUTS)


def test_without_apply_mup_nothing_is_captured():
    for make in (gpt2(("@haiku_mup.apply_mup()\n", "")), gpt2(name="gpt2.py")):
        with pytest.raises(haiku_mup.MupError, match="init_base captured no parameter"):
            captured(make, INPUTS, base=64, target=128)


def test_without_the_shared_layers_it_warns():
    make = gpt2(("haiku_mup.SharedEmbed", "hk.Embed"),
                ("haiku_mup.SharedReadout()(embed, x)", "x @ embed.embeddings.T"))
    with pytest.warns(haiku_mup.MupWarning, match="an hk.Embed's matrix is read.*SharedReadout"):
        captured(make, INPUTS, base=64, target=128)


@pytest.mark.slow
def test_the_program_around_it_runs():
    done = subprocess.run([sys.executable, "-W", "error", "train.py"], cwd=DOCS / "examples", check=False,
                          capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(DOCS.parent)})
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.removeprefix("loss ")) < 2.0           # of log 64 = 4.2


# --- the parts ---

def decoder(attend, feed, names=None, **settings):
    """Returns make(width) of a decoder of these parts, each a function of blocks.py's names, x and width."""
    names = names or example("blocks.py")
    return lambda width: hk.transform(functools.partial(
        names["decoder"], width=width, attend=functools.partial(attend, names),
        feed=functools.partial(feed, names), blocks=1, **settings))


def grouped(names, x, width):
    return names["attention"](x, 4, 2, width // 4)


def multi_query(names, x, width):
    return names["attention"](x, width // 16, 1, 16, names["few_keys_and_values"])


def gated(names, x, width):
    return names["swiglu"](x, 8 * width // 3)


def mixture(names, x, width):
    return names["mixture"](x, 2 * width)


def roles(make):
    """Returns {parameter: role} from width 64 to 128."""
    return {row.name: row.role for row in captured(make, INPUTS, base=64, target=128).table()}


def test_each_part_has_the_role_that_the_guide_says():
    found = roles(decoder(grouped, gated))
    hidden = {f"attend_0/{name}/w" for name in ("query", "key", "value", "out")}
    assert {name for name, role in found.items() if role == "hidden"} == hidden | {
        f"feed_0/{name}/w" for name in ("gate", "up", "down")}
    assert {found[f"{name}/gain"] for name in ("attend_0", "feed_0", "last")} == {"input"}
    found = roles(decoder(multi_query, mixture))
    assert {name for name, role in found.items() if role == "output"} == {
        "attend_0/key/w", "attend_0/value/w", "feed_0/router/w", "readout/w"}
    assert found["feed_0/experts_up"] == found["feed_0/experts_down"] == "hidden"


def test_nothing_is_a_guess_and_without_fans_it_is():
    mup = captured(decoder(multi_query, mixture), INPUTS, base=64, target=128)
    assert not any(row.inferred for row in mup.table())
    bare = example("blocks.py", ("with haiku_mup.fans(fan_in=1, fan_out=2):", "if True:"))
    mup = captured(decoder(multi_query, mixture, bare), INPUTS, base=64, target=128)
    assert {row.name for row in mup.table() if row.inferred} == {"feed_0/experts_up", "feed_0/experts_down"}


def test_experts_that_grow_in_number():
    """Their axis counts for nothing, and the router is a hidden layer."""
    names = example("blocks.py", ("haiku_mup.Readout(experts, False", "hk.Linear(experts, False"),
                    ("fan_in=1, fan_out=2", "fan_in=1, fan_out=2, lookup=0"))
    mup = captured(decoder(grouped, lambda names, x, width: names["mixture"](x, 2 * width, width // 16), names),
                   INPUTS, base=64, target=128)
    rows = {row.name: row for row in mup.table()}
    assert rows["feed_0/router/w"].role == "hidden" and rows["feed_0/experts_up"].target_shape == (8, 128, 256)
    assert rows["feed_0/experts_up"].adam_lr == rows["feed_0/experts_down"].adam_lr == 0.5


@pytest.mark.parametrize("changes, attend, feed, says", [
    ([("haiku_mup.Readout(experts, False", "hk.Linear(experts, False")], grouped, mixture, "feed_0/router/w"),
    ([], lambda names, x, width: names["attention"](x, width // 16, 1, 16), gated, "attend_0/key/w"),
    ([], grouped, lambda names, x, width: names["swiglu"](x, 100), "feed_0/gate/w"),
    ([("haiku_mup.Readout(vocab", "hk.Linear(vocab")], grouped, gated, "linear/w")],
    ids=["router", "few keys", "a fixed hidden layer", "readout"])
def test_a_step_that_is_left_out_raises(changes, attend, feed, says):
    make = decoder(attend, feed, example("blocks.py", *changes))
    with pytest.raises(haiku_mup.MupError, match=f"{says}.*from a growing to a fixed width is an output"):
        captured(make, INPUTS, base=64, target=128)


def test_rotary_turns_and_depends_on_the_distance_alone():
    """Lengths stay, and q·k of two places is that of any two as far apart."""
    rng, rotary = np.random.default_rng(0), jax.jit(example("blocks.py")["rotary"])
    q, k = (np.tile(rng.normal(size=(1, 1, 2, 16)), (1, 9, 1, 1)).astype("float32") for _ in range(2))
    turned, keys = np.asarray(rotary(q)), np.asarray(rotary(k))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(q, axis=-1), rtol=1e-5)
    dots = np.einsum("bthd,bThd->htT", turned, keys)
    for apart in range(5):
        assert (np.ptp(np.diagonal(dots, apart, 1, 2), axis=1) < 1e-4).all()    # of float32
    assert np.ptp(dots[0, 0]) > 0.1


# --- coordinate checks ---

def check(make, **more):
    """Checks coordinates as the guide says: with one batch for all steps, which judges no move of a probe."""
    batch = (INPUTS, IDS[:, 1:])
    return haiku_mup.coord_check(make, [64, 256], [batch] * 2, losses.cross_entropy, optax.adam(2.0**-7),
                                 steps=2, seeds=4, fix_batch=False, progress=False, **more)


def slopes(found, name):
    return {round(finding.slope, 1) for finding in found.findings if finding.quantity.endswith(name)}


ALIGNED = "    haiku_mup.probe('aligned', math.sqrt(16) / size * jnp.sum(q**2, -1))\n"
PROBED = "    earlier", f"{ALIGNED}    earlier"


@pytest.mark.slow
def test_gpt2_passes_and_with_its_own_logits_fails():
    good = check(gpt2(PROBED, blocks=1))
    good.assert_ok()
    assert slopes(good, "h_0/aligned") <= {-0.1, 0.0, 0.1}
    scale = "math.sqrt(16) / size", "1 / math.sqrt(size)"
    bad = check(gpt2((PROBED[0], PROBED[1].replace(*scale)), OWN_LOGITS[::-1], blocks=1))
    assert {finding.quantity for finding in bad.failures()} == {"probe h_0/aligned"}
    assert slopes(bad, "h_0/aligned") <= {0.4, 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("attend, feed", [(grouped, gated), (multi_query, mixture)])
def test_the_parts_pass_and_fail_in_the_standard_parametrization(attend, feed):
    check(decoder(attend, feed)).assert_ok()
    assert not check(decoder(attend, feed), parametrization="sp").ok


@pytest.mark.slow
@pytest.mark.parametrize("change, worst", [
    (("math.sqrt(BASE_SIZE) / size", "1 / math.sqrt(size)"), "aligned"),
    (("jnp.mean(x**2, -1, keepdims=True)", "jnp.sum(x**2, -1, keepdims=True)"), "attend_0/")])
def test_a_step_that_is_left_out_fails_the_check(change, worst):
    bad = check(decoder(grouped, gated, example("blocks.py", change)))
    assert any(worst in finding.quantity for finding in bad.failures())
