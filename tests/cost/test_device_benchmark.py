"""python -m benchmarks.device, at tiny sizes: every part gives its numbers, on the table and in the file."""
import json
import math

import pytest

from benchmarks import device


@pytest.mark.parametrize("part", [
    part if part in ("step", "check") else pytest.param(part, marks=pytest.mark.slow) for part in device.PARTS])
def test_a_part_gives_numbers(part, tmp_path, capsys):
    path = tmp_path / "device.json"
    assert device.main(["--smoke", "--only", part, "--out", str(path)]) == 0
    found = json.loads(path.read_text(encoding="utf-8"))
    said = capsys.readouterr().out
    assert found["device"] in said and f"{part}, " in said
    values = [float(text) for _, text in device.flat({part: found[part]}) if text.replace(".", "").isdigit()]
    assert values and all(map(math.isfinite, values))


def test_the_wrapped_step_is_the_plain_one_and_some_multiplications(tmp_path):
    found = device.measure_step(device.SMOKE)
    assert found["plain"]["fusions"] > 0 and found["parameters"] > 1000
    low, middle, high = found["wrapped / plain"]
    assert 0 < low <= middle <= high


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        device.main(["--only", "steps"])
    assert stop.value.code == 2 and "give some of step, trials, check, transfer" in capsys.readouterr().err
