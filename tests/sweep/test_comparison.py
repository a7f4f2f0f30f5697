"""`compare` and `Comparison`: what they say of losses whose answers are known, and of a small model."""
import concurrent.futures
import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import haiku_mup
from haiku_mup import Comparison, MupError, Sweep, Trial
from haiku_mup.sweep.compare_parametrizations import parametrizations
from haiku_mup.sweep.trial import Missing

WIDTHS = (64, 128, 256)


def compared(*, move, level, seeds=3, noise=0.01, at=range(-14, -1), target=None, chance=0.0):
    """A comparison of parametrizations: each best rate is × width^move, each lowest loss level[name] at 256.

    Args:
      noise: each seed's own level, the same in every parametrization.
      chance: each seed's level in one parametrization.
    """
    losses, rng = {}, np.random.default_rng(0)
    for name in move:
        own = chance * rng.normal(size=seeds)
        for width in WIDTHS:
            for k in at:
                for seed in range(seeds):
                    best = -7.2 + move[name] * math.log2(width / 64)
                    loss = level[name] + 0.1 * (k - best)**2 + 8 / width - 8 / 256 + noise * seed + own[seed]
                    losses[Trial(name, width, (("lr", 2.0**k),), seed)] = {"valid": np.array(loss)}
    return Comparison(Sweep(losses), target=target)


MOVE, LEVEL = {"sp": -1.0, "mup": 0.0}, {"sp": 2.2, "mup": 2.0}


# --- verdicts ---

def test_the_one_that_transfers_and_is_best_is_chosen():
    found = compared(move=MOVE, level=LEVEL, target=4096)
    assert (found.best, found.equals, found.choice, found.widest) == ("mup", [], "mup", 256)
    assert found.behind("sp").value == pytest.approx(0.2, abs=0.01) and found.behind("sp").low > 0
    assert found.transfers_over_widths("mup") and not found.transfers_over_widths("sp")
    text = found.paragraph()
    assert "mup is best (2.0" in text and "behind it is sp by 0.2" in text
    assert "At width 4096 take mup with a learning rate of 0.0068 (2^-7.2)." in text


def test_one_that_seeds_dont_tell_from_the_best_is_chosen_if_it_alone_transfers():
    found = compared(move=MOVE, level={"sp": 2.0, "mup": 2.01}, chance=0.1)
    assert set((found.best, *found.equals)) == {"sp", "mup"} and found.choice == "mup"
    assert "the seeds can't tell it from" in found.paragraph()


def test_the_best_one_is_not_given_up_for_a_worse_one_that_transfers():
    """The seeds tell them apart: then the law predicts the rate."""
    found = compared(move=MOVE, level={"sp": 2.0, "mup": 2.2}, target=1024)
    assert (found.best, found.choice, found.equals) == ("sp", "sp", [])
    assert "follows width^-1.00" in found.paragraph() and "predicts 0.000425" in found.paragraph()
    assert "give target= for a prediction" in compared(move=MOVE, level={"sp": 2.0, "mup": 2.2}).paragraph()


def test_seeds_are_compared_with_themselves():
    """A seed's own level, which all parametrizations share, is no difference between them."""
    noisy = compared(move=MOVE, level=LEVEL, noise=10.0)
    assert noisy.equals == [] and noisy.behind("sp").half < 0.01


def test_chance_alone_is_seldom_taken_for_a_difference():
    names = dict.fromkeys("abcde", 0.0)
    wrong = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        losses = {Trial(name, width, (("lr", 2.0**k),), s): {"valid": np.array((k + 7)**2 + x)}
                  for name in names for s, x in enumerate(rng.normal(size=3)) for width in (64, 128)
                  for k in (-8, -7, -6)}
        wrong += len(Comparison(Sweep(losses)).equals) < 4
    assert wrong <= 6           # 2 of 40 are expected of comparisons with one that is chosen beforehand


@pytest.mark.parametrize("change, says", [
    ({"seeds": 2}, "fewer than three seeds"), ({"at": range(-14, -7)}, "add rates"),
    ({"seeds": 1}, "add seeds")])
def test_doubts_are_said(change, says):
    assert says in compared(move=MOVE, level=LEVEL, **change).paragraph()
    assert "But" not in compared(move=MOVE, level=LEVEL).paragraph()


def test_missing_and_diverged_trials():
    found = compared(move=MOVE, level=LEVEL)
    some = next(iter(found.sweep.losses))
    assert "1 trials are missing" in Comparison(Sweep(found.sweep.losses, [Missing(some, "x")])).paragraph()
    diverged = {trial: {"valid": np.array(np.inf if trial.parametrization == "sp" else by["valid"])}
                for trial, by in found.sweep.losses.items()}
    found = Comparison(Sweep(diverged))
    assert found.best == "mup" and found.equals == [] and math.isinf(found.behind("sp").value)
    assert "sp by inf" in found.paragraph() and "mup" in str(found)
    nothing = Comparison(Sweep({trial: {"valid": np.array(np.inf)} for trial in diverged}))
    assert "Every rate diverged" in nothing.paragraph()
    with pytest.raises(MupError, match="no width in common"):
        Comparison(Sweep({})).widest  # noqa: B018


def test_the_table_has_a_line_for_each():
    lines = str(compared(move=MOVE, level=LEVEL)).splitlines()
    assert lines[0].split()[0] == "parametrization" and lines[1].split()[0] == "sp" and lines[1].endswith("no")
    assert lines[2].split()[0] == "mup" and lines[2].endswith("yes")


# --- compare ---

X = jax.random.normal(jax.random.key(0), (32, 3))
DATA = X, jnp.sin(X.sum(1, keepdims=True))


def make_model(width):
    def fn(x):
        with haiku_mup.apply_mup():
            return haiku_mup.Readout(1)(jax.nn.relu(hk.Linear(width)(jax.nn.relu(hk.Linear(width)(x)))))
    return hk.transform(fn)


def loss_fn(apply, params, rng, batch):
    return jnp.mean((apply(params, rng, batch[0]) - batch[1])**2)


def run(**kwargs):
    with concurrent.futures.ThreadPoolExecutor(1) as here:
        return haiku_mup.compare(
            make_model, DATA, loss_fn, optax.adam, lrs=[2.0**-9, 2.0**-6, 2.0**-3], seeds=1, steps=2,
            **{"widths": [8, 32]} | kwargs, sweep={"executor": here, "progress": False})


@pytest.mark.slow
def test_at_the_bases_width_all_are_one_model_and_a_folder_continues(tmp_path):
    tables = {name: parametrizations()[name] for name in ("sp", "modified_sp", "mup")}
    found = run(out=tmp_path, parametrizations=tables)
    losses = {}
    for row in found.sweep.rows():
        losses.setdefault((row["width"], row["lr"]), set()).add(row["train_loss"])
    assert [len(losses[key]) for key in sorted(losses)] == [1, 1, 1, 3, 3, 3]
    assert run(out=tmp_path, parametrizations=tables).sweep.rows() == found.sweep.rows()
    assert (tmp_path / "results.csv").exists() and list(found.transfers) == list(tables)


def test_nothing_to_compare_is_refused():
    for wrong in ({"parametrizations": {}}, {"widths": []}):
        with pytest.raises(MupError, match="at least"):
            run(**wrong)
