"""Captures and checks the networks of one package, in its environment.

python -m benchmarks.zoo.entry MODULE FILE [--no-check]

Writes what it finds to FILE as JSON, a record for each network.
"""
import json
import pathlib
import sys
import traceback

import jax
import jax.numpy as jnp
import optax

import haiku_mup
from benchmarks.zoo.capture import guesses, make_model, mistaken, stages
from benchmarks.zoo.network import Network, package

EPS = 1e-15         # of Adam: nothing beside gradients, however small a network's are at init


def check(network: Network) -> tuple[str, str]:
    """Runs the coordinate check; returns its verdict and its text.

    The loss is the mean square of what outputs differ from waves, which are alike at every width.
    """
    def loss_fn(apply, params, rng, inputs):
        found = jax.tree.leaves(network.outputs(apply(params, rng, *inputs)))
        return sum(jnp.mean((x - jnp.sin(jnp.arange(x.size)).reshape(x.shape))**2) for x in found) / len(found)

    result = haiku_mup.coord_check(
        lambda width: make_model(network, width), network.check_widths, network.inputs(), loss_fn,
        optax.adam(network.learning_rate, eps=EPS), seeds=network.seeds, progress=False, **network.declarations)
    return result.verdict.value, str(result)


def record(network: Network, with_check: bool = True) -> dict:
    """Returns what the report says of a network."""
    found = stages(network)
    last = found[-1]
    if last.error:
        raise RuntimeError(f"captured with {last.declarations}: {last.error}")
    verdict, text = check(network) if with_check else ("not run", "coordinate check: not run")
    return {
        "network": network.name, "parameters": len({row.name.partition("[")[0] for row in last.mup.table()}),
        "declarations": {key: repr(value) for key, value in network.declarations.items()},
        "stages": [{"declarations": ", ".join(stage.declarations), "error": stage.error, "told": stage.told}
                   for stage in found],
        "summary": last.mup.summary(), "mistakes": list(map(str, last.mistakes)),
        "wrong with all": {how: sorted(which) for how, which in mistaken(last).items()},
        "wrong without": guesses(found), "verdict": verdict, "failure": network.failure, "check": text}


def main(module: str, path: str, *options: str) -> None:
    """Writes a record for each network of a package."""
    records = []
    for network in package(module).networks():
        try:
            records.append(record(network, with_check="--no-check" not in options))
        except Exception:       # one network's trouble is a line of the report, not the end of it
            records.append({"network": network.name, "trouble": traceback.format_exc()})
    pathlib.Path(path).write_text(json.dumps(records), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
