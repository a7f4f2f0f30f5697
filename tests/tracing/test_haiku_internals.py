"""What is read of Haiku's private names is there in the Haiku that is installed."""
import importlib.util
import types

import pytest

from haiku_mup.tracing import haiku_internals


def qualified_names(code):
    """Yields the qualified names of all functions in some code."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant.co_qualname
            yield from qualified_names(constant)


def has(module, name):
    code = importlib.util.find_spec(module).loader.get_code(module)
    return name in set(qualified_names(code))


@pytest.mark.parametrize("name", haiku_internals._FRAMES)
def test_each_frame_that_is_looked_for_exists(name):
    module, _ = haiku_internals._FRAMES[name]
    assert has(module, name)
    assert not has(module, name + "_of_another_version")
