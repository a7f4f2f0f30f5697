"""docs/examples/checkpoint.py keeps the Mup in the checkpoint; goes on on other devices, and after a kill."""
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import haiku_mup

ROOT = pathlib.Path(__file__).parents[2]
SOURCE = (ROOT / "docs" / "examples" / "checkpoint.py").read_text(encoding="utf-8")
CHECK = "    mup.check(kept.mup) "
STATE = """
import hashlib
import numpy as np
def shown(when):
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    parts = {x.sharding.shard_shape(x.shape) for x in jax.tree.leaves(state) if x.shape == (64, 64)}
    print(when, digest.hexdigest(), *parts, flush=True)
"""
SHOWN = [("for step in range(", f"{STATE}shown('start')\nfor step in range("),
         ("manager.close()", "shown('end')\nmanager.close()")]


def changed(*changes):
    source = SOURCE
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


def here(monkeypatch, capsys, folder, steps, *changes):
    """Returns {step: loss} of the example, run in this process."""
    monkeypatch.setattr(sys, "argv", ["checkpoint.py", str(folder), str(steps)])
    exec(compile(changed(*changes), "checkpoint.py", "exec"), {"__name__": "__main__"})
    return losses(capsys.readouterr().out)


def start(folder, steps, devices, *changes):
    """Starts the example in a process of its own, on so many devices of this machine."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen([sys.executable, "-c", changed(*changes), str(folder), str(steps)], cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)})


def ended(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


def losses(said):
    return {int(step): float(loss) for step, loss, *more in map(str.split, said.splitlines())
            if step.isdecimal()}


def states(said):
    """Returns {"start": (digest, shape of a shard of the hidden weight), "end": …}."""
    return {when: (digest, "".join(part)) for when, digest, *part in map(str.split, said.splitlines())
            if when in ("start", "end")}


def test_the_example_goes_on_and_refuses_another_mup(monkeypatch, capsys, tmp_path):
    whole = here(monkeypatch, capsys, tmp_path / "whole", 3)
    first = here(monkeypatch, capsys, tmp_path / "cut", 2)
    for old, new, says in (
            ("in (16, 64))", "in (32, 64))", "another base, so that 5 of 6 parameters differ"),
            ("Mup()", "Mup(parametrization=haiku_mup.standard())", "μP in the checkpoint, and standard here"),
            ("Mup()", "Mup(init_mults={'linear/w': 0.5})", "other init_mults or lr_mults, so that 1 of 6")):
        with pytest.raises(haiku_mup.MupError, match=says) as error:
            here(monkeypatch, capsys, tmp_path / "cut", 3, (old, new))
        head, theirs, ours = str(error.value).splitlines()[1:4]
        assert head.split()[0] == "parameter"
        assert theirs.split()[:2] == ["checkpoint", "linear/w"] and ours.split()[0] == "here"
    assert first | here(monkeypatch, capsys, tmp_path / "cut", 3) == whole


@pytest.mark.slow
def test_without_the_check_another_base_goes_on_unseen(tmp_path):
    other = [("in (16, 64))", "in (32, 64))"), (CHECK, "    pass #")]
    whole = losses(ended(start(tmp_path / "whole", 12, 1)))
    ended(start(tmp_path / "cut", 3, 1))
    wrong = losses(ended(start(tmp_path / "cut", 12, 1, *other)))
    assert max(abs(wrong[step] - whole[step]) for step in wrong) > 1e-3
    with pytest.raises(AssertionError, match="another base"):      # it is in the checkpoint by now
        ended(start(tmp_path / "cut", 13, 1))


@pytest.mark.slow
def test_from_one_device_to_four_and_back(tmp_path):
    """Restored, all is as it was, bit for bit, in other parts; sums in other parts round otherwise."""
    rows = "[*[None] * (x.ndim - 1), \"parts\"]", "[*[None] * (x.ndim - 2), \"parts\", *[None] * (x.ndim > 1)]"
    height = "x.shape[-1] %", "x.shape[-2 if x.ndim > 1 else -1] %"
    whole = losses(ended(start(tmp_path / "whole", 15, 1)))
    found, before = {}, None
    for steps, devices, changes, part in ((3, 1, [], "(64,64)"), (6, 4, [], "(64,16)"), (9, 4, [rows, height],
                                          "(16,64)"), (12, 2, [], "(64,32)"), (15, 1, [], "(64,64)")):
        said = ended(start(tmp_path / "cut", steps, devices, *changes, *SHOWN))
        digest, shape = states(said)["start"]
        assert shape == part and (before is None or digest == before)
        before = states(said)["end"][0]
        found |= losses(said)
    assert found.keys() == whole.keys() and len({*found.values()}) == 15
    np.testing.assert_allclose([*found.values()], [*whole.values()], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_killed_at_any_moment_it_goes_on_as_if_nothing_had_been(devices, tmp_path):
    """A step is saved while the next runs on its donated memory: this is no race."""
    whole = losses(ended(start(tmp_path / "whole", 60, devices)))
    rng, found = np.random.default_rng(devices), {}
    for _ in range(4):
        process = start(tmp_path / "cut", 60, devices)
        said = [process.stdout.readline() for _ in range(rng.integers(2, 12))]
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        rest, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL
        found |= losses("".join(said) + rest[:rest.rfind("\n") + 1])
    found |= losses(ended(start(tmp_path / "cut", 60, devices)))
    assert found == whole
