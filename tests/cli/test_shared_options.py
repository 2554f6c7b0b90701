"""An option that several verbs have is declared once: one name, one meaning, one sentence of help."""

import inspect
from typing import get_args

import pytest
from typer.models import OptionInfo

from labelscape.cli import check, evaluate, map, polygonize

LABELS_OWN = {"area"}
"""Of `evaluate` this says where labels are complete, not what is mapped."""


def options_of(verb) -> dict[str, tuple[object, OptionInfo]]:
    """Parameter -> its default and the declaration of its option."""
    return {
        name: (parameter.default, about)
        for name, parameter in inspect.signature(verb.run).parameters.items()
        for about in get_args(parameter.annotation)[1:]
        if isinstance(about, OptionInfo)
    }


@pytest.mark.parametrize("one", [map, check])
@pytest.mark.parametrize("other", [check, evaluate, polygonize])
def test_verbs_share_options_and_defaults(one, other):
    mine, others = options_of(one), options_of(other)
    for name in (mine.keys() & others.keys()) - LABELS_OWN:
        assert mine[name] == others[name], name


def test_a_map_is_checked_and_evaluated_under_the_options_that_decide_its_values():
    shared = set(options_of(map)) & set(options_of(check)) & set(options_of(evaluate))
    tiles, machine = {"tile_size", "overlap", "blend"}, {"device", "precision"}
    assert tiles | machine | {"tta", "scales", "average", "also"} <= shared
