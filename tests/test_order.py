"""What differs from process to process decides nothing: the order of a set of texts, in the package; what was
drawn before, in a test.
"""

import ast
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

PACKAGE = Path(__file__).parent.parent / "src" / "labelscape"
FREE = {"sorted", "set", "frozenset", "sum", "any", "all", "len", "min", "max"}
"""What is the same in whatever order it is given."""
ORDERED = {"list", "tuple", "enumerate", "iter", "next", "zip", "map"}
ALGEBRA = (ast.BitAnd, ast.BitOr, ast.BitXor, ast.Sub)


def is_set(node: ast.expr, names: set[str]) -> bool:
    """Is it a set by what stands there: a display, a call of set(), what is assigned to one of the names?"""
    match node:
        case ast.Set() | ast.SetComp() | ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.Name(id=name):
            return name in names
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, ALGEBRA):
            keys = isinstance(left, ast.Call) and getattr(left.func, "attr", "") in ("keys", "items")
            return keys or is_set(left, names) or is_set(right, names)
    return False


def sets_in(function: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and is_set(node.value, found):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def given_to_free(node: ast.AST) -> list[ast.expr]:
    """What is given to a function of FREE, or put into a set."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in FREE:
        return node.args
    return node.elts if isinstance(node, ast.Set) else []


def taken_in_order(tree: ast.AST) -> Iterator[int]:
    """Lines that go through a set in its own order."""
    free = {id(one) for node in ast.walk(tree) for one in given_to_free(node)}
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        names = sets_in(function)
        for node in ast.walk(function):
            match node:
                case ast.For(iter=one) | ast.Starred(value=one):
                    through = [] if id(node) in free else [one]
                case ast.ListComp(generators=many) | ast.GeneratorExp(generators=many):
                    through = [] if id(node) in free else [one.iter for one in many]
                case ast.DictComp(generators=many):
                    through = [one.iter for one in many]
                case ast.Call(func=ast.Name(id=name), args=args) if name in ORDERED and id(node) not in free:
                    through = args
                case ast.Call(func=ast.Attribute(attr="join"), args=args):
                    through = args
                case _:
                    through = []
            yield from (node.lineno for one in through if is_set(one, names))


def test_nothing_goes_through_a_set_in_its_own_order():
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        found += [f"{file.relative_to(PACKAGE)}:{line}" for line in taken_in_order(tree)]
    assert found == [], "sort it, or use dict.fromkeys, which keeps the order"


@pytest.mark.parametrize(
    ("line", "ordered"),
    [
        ("for a in {b.name for b in given}: print(a)", False),
        ("for a in given.keys() - {1}: print(a)", False),
        ("', '.join(set(given))", False),
        ("names = {*given}; return [n for n in names]", False),
        ("names = set(given) - {1}; return {n: 1 for n in names}", False),
        ("return list({1, 2})", False),
        ("for a in sorted({b.name for b in given}): print(a)", True),
        ("return all(a for a in {*given})", True),
        ("return {a for a in set(given)}", True),
        ("for a in dict.fromkeys(given): print(a)", True),
        ("return sorted(list(set(given)))", True),
    ],
)
def test_the_rule_itself(line, ordered):
    tree = ast.parse(f"def f(given): {line}" if line[:3] != "for" else f"def f(given):\n    {line}")
    assert (not [*taken_in_order(tree)]) == ordered


DRAWN = []


@pytest.mark.parametrize("turn", [1, 2])
def test_what_a_test_draws_does_not_depend_on_those_before_it(turn):
    DRAWN.append((torch.rand(1).item(), np.random.rand(), random.random()))  # noqa: NPY002
    assert len({*DRAWN}) == 1
