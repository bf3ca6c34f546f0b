"""Which rows are wanted: comparisons of scores and numbers, joined by and, or, not.

    iaa>60 and iqa>=70
    50 < ista <= 80 or not sharpness < 4
    0.4*iaa + 0.3*iqa + 0.3*ista > 65

The text is parsed by Python's own parser and walked here, node by node: names, numbers, comparisons, + - * /,
and, or, not. Everything else is an error, and nothing is executed.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from reward_plugin.errors import ConfigError

COMPARISONS: dict[type, Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
ARITHMETIC: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
RULE = "write comparisons of scores with numbers, joined by and, or, not, such as 'iaa>60 and iqa>=70'"


@dataclass(frozen=True)
class Filter:
    """A parsed filter.

    Attributes:
        text: as the user wrote it.
        names: columns it looks at.
    """

    text: str
    names: frozenset[str]
    _tree: ast.expr

    def check(self, known: Collection[str]) -> None:
        """ConfigError where it names a column that is not in `known`."""
        for name in sorted(self.names - set(known)):
            raise ConfigError(f"filter {self.text!r}: unknown name {name!r}; known are {', '.join(known)}")

    def passes(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is wanted; never where one of the names has no number in it."""
        try:
            values = {name: float(row.get(name, math.nan)) for name in self.names}
            return not any(map(math.isnan, values.values())) and _truth(self._tree, values)
        except (TypeError, ValueError, ArithmeticError):  # a text, a null, a division by zero
            return False


def parse_filter(text: str) -> Filter:
    """Read a filter.

    Raises:
        ConfigError: it breaks a rule of the language; the message says where.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        names: set[str] = set()
        _check_truth(tree, text, names)
    except SyntaxError as error:
        hint = "; equality is ==" if "=" in text and "==" not in text else ""
        raise ConfigError(f"filter {text!r}: {error.msg} at character {error.offset}{hint}; {RULE}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"filter {text!r}: {error}; {RULE}") from None
    if not names:
        raise ConfigError(f"filter {text!r}: names no score; {RULE}")
    return Filter(text, frozenset(names), tree)


def _check_truth(node: ast.expr, text: str, names: set[str]) -> None:
    match node:
        case ast.BoolOp(values=parts):
            for part in parts:
                _check_truth(part, text, names)
        case ast.UnaryOp(op=ast.Not(), operand=part):
            _check_truth(part, text, names)
        case ast.Compare(left=left, ops=ops, comparators=others) if all(
            type(op) in COMPARISONS for op in ops
        ):
            for part in (left, *others):
                _check_number(part, text, names)
        case _:
            raise ConfigError(f"filter {text!r}: {ast.unparse(node)!r} is not a comparison; {RULE}")


def _check_number(node: ast.expr, text: str, names: set[str]) -> None:
    match node:
        case ast.Name(id=name):
            names.add(name)
        case ast.Constant(value=value) if type(value) in (int, float):
            pass
        case ast.UnaryOp(op=ast.USub(), operand=part):
            _check_number(part, text, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            _check_number(left, text, names)
            _check_number(right, text, names)
        case _:
            raise ConfigError(f"filter {text!r}: {ast.unparse(node)!r} is not a score or number; {RULE}")


def _truth(node: ast.expr, values: Mapping[str, float]) -> bool:
    if isinstance(node, ast.BoolOp):
        together = all if isinstance(node.op, ast.And) else any
        return together(_truth(part, values) for part in node.values)
    if isinstance(node, ast.UnaryOp):
        return not _truth(node.operand, values)
    assert isinstance(node, ast.Compare)
    numbers = [_number(part, values) for part in (node.left, *node.comparators)]
    steps = zip(node.ops, numbers, numbers[1:], strict=False)
    return all(COMPARISONS[type(op)](low, high) for op, low, high in steps)


def _number(node: ast.expr, values: Mapping[str, float]) -> float:
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.UnaryOp):
        return -_number(node.operand, values)
    if isinstance(node, ast.BinOp):
        return ARITHMETIC[type(node.op)](_number(node.left, values), _number(node.right, values))
    assert isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    return node.value
