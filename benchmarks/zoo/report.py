"""Reports of networks, as text and as the table of the guide."""
import textwrap
from collections.abc import Iterable
from typing import Any

from benchmarks.zoo.network import Package

HEADS = "package", "network", "parameters", "declarations", "wrong without", "wrong with", "check"


def is_right(record: dict[str, Any]) -> bool:
    """Returns whether no factor is other than by hand and quiet, and the check fails where it should alone."""
    if "trouble" in record or record["wrong without"]["quiet"] or record["wrong with all"]["quiet"]:
        return False
    return record["verdict"] == "not run" or (record["verdict"] == "failed") == bool(record["failure"])


def as_text(package: Package, record: dict[str, Any]) -> str:
    """Returns the report of one network."""
    lines = [f"\n{package.name} {package.version}: {record['network']}"]
    if "trouble" in record:
        return "\n".join([*lines, textwrap.indent(record["trouble"].rstrip(), "    ")])
    lines += [f"  {key}={value}" for key, value in record["declarations"].items()]
    lines += textwrap.indent(record["summary"], "  ").splitlines()
    for stage in record["stages"]:
        lines += [f"  with {stage['declarations'] or 'no declarations'}: {len(stage['told'])} warnings"
                  f"{', and an error' * bool(stage['error'])}"]
        lines += [f"    {text}" for text in [*filter(None, [stage["error"]]), *stage["told"]]]
    lines += [f"  other than by hand: {text}" for text in record["mistakes"]]
    lines += [f"  without declarations wrong, and {how}: {', '.join(which)}"
              for how, which in record["wrong without"].items() if which]
    return "\n".join([*lines, textwrap.indent(record["check"], "  ")])


def cells(package: Package, record: dict[str, Any]) -> tuple[str, ...]:
    """Returns the cells of the guide's table for one network."""
    first = f"{package.name} {package.version}", record["network"]
    if "trouble" in record:
        return *first, "–", "–", "–", "–", "trouble: " + record["trouble"].strip().splitlines()[-1]
    declared = [f"``{key}={value}``" for key, value in record["declarations"].items()]
    return (*first, str(record["parameters"]), ", ".join(declared) or "none", _counts(record["wrong without"]),
            _counts(record["wrong with all"]), _verdict(record))


def _verdict(record: dict[str, Any]) -> str:
    """Returns the check's verdict, with the reason why it should fail."""
    if record["verdict"] == "failed" and record["failure"]:
        return f"failed, as it should: {record['failure']}"
    return str(record["verdict"])


def _counts(wrong: dict[str, list[str]]) -> str:
    """Returns how many parameters are wrong, by what is told of them."""
    return ", ".join(f"{len(which)} {how}" for how, which in wrong.items() if which) or "none"


def as_rst(found: Iterable[tuple[Package, dict[str, Any]]]) -> str:
    """Returns the table of the guide."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 13 14 9 32 10 9 13", ""]
    for row in (HEADS, *(cells(package, record) for package, record in found)):
        lines += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"
