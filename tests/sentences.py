"""Finds decisions that look into a sentence: a proof must hang on typed fields, never on words."""

from __future__ import annotations

import ast
from itertools import pairwise

# Fields that hold text for people. ``value`` is a hypothesis's, a number or a text; only looks inside it count.
PROSE = {
    *("advice", "bound", "existence", "failure", "failures", "method", "rate", "reason", "reasons", "scope"),
    *("statement", "theorem", "value", "why", "witness"),
}
UNEQUAL = PROSE - {"bound", "method", "rate", "value"}  # of these, numbers and enums may be compared with ==
PATTERNS = {"findall", "finditer", "fullmatch", "match", "search"}  # PATTERN.search(text), re.search(..., text)
LOOKS = {"count", "endswith", "find", "index", "partition", "removeprefix", "removesuffix", "rfind", "rindex"}
LOOKS |= {"rpartition", "split", "startswith", *PATTERNS}  # text.startswith(...)
SAME = {"casefold", "format", "join", "lower", "replace", "strip", "lstrip", "rstrip", "title", "upper"}


def decisions_on_sentences(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, expression) of each search or comparison whose subject is a text for people, also through local names."""
    told = local_texts(tree)
    return sorted({(node.lineno, ast.unparse(node)) for node in ast.walk(tree) if looks(node, told)})


def looks(node: ast.AST, told: set[str]) -> bool:
    """Whether this node decides by the words of a text."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        for (left, right), operator in zip(pairwise(sides), node.ops, strict=True):
            if isinstance(operator, ast.In | ast.NotIn) and (is_text(left, told) or is_text(right, told)):
                return True
            if isinstance(operator, ast.Eq | ast.NotEq) and any(is_text(s, told, UNEQUAL) for s in (left, right)):
                return True
        return False
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOOKS:
        return any(is_text(e, told) for e in (node.func.value, *(node.args if node.func.attr in PATTERNS else ())))
    if isinstance(node, ast.Match):
        return is_text(node.subject, told, UNEQUAL)
    if isinstance(node, ast.Subscript) and is_text(node.slice, told):  # a table whose key is a sentence, or Enum["NAME"]
        return not (isinstance(node.value, ast.Name) and node.value.id[0].isupper() and not node.value.id.isupper())
    return False


def is_text(node: ast.expr, told: set[str], fields: set[str] = PROSE) -> bool:
    """Whether an expression is a text for people: such a field, its ``str``, or what is made of one."""
    if isinstance(node, ast.Attribute):
        return node.attr in fields
    if isinstance(node, ast.Name):
        return node.id in told
    if isinstance(node, ast.Subscript):
        key = node.slice
        return (isinstance(key, ast.Constant) and key.value in fields) or is_text(node.value, told, fields)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in ("str", "repr", "show"):
            return any(is_text(a, told) or names_claim(a) for a in node.args)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
            return isinstance(node.args[0], ast.Constant) and node.args[0].value in fields
        if isinstance(node.func, ast.Attribute) and node.func.attr in SAME:
            return any(is_text(part, told, fields) for part in (node.func.value, *node.args))
        return False
    if isinstance(node, ast.JoinedStr):
        return any(isinstance(v, ast.FormattedValue) and is_text(v.value, told) for v in node.values)
    if isinstance(node, ast.BinOp):
        return is_text(node.left, told, fields & UNEQUAL) or is_text(node.right, told, fields & UNEQUAL)
    if isinstance(node, ast.BoolOp):
        return any(is_text(v, told, fields) for v in node.values)
    if isinstance(node, ast.IfExp):
        return is_text(node.body, told, fields) or is_text(node.orelse, told, fields)
    return False


def names_claim(node: ast.expr) -> bool:
    """Whether a bare name or attribute says that it holds a claim, so that its ``str`` is prose."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return any(word in name for word in ("hypothesis", "guarantee", "certificate", "claim", "verdict"))


def local_texts(tree: ast.AST) -> set[str]:
    """Names assigned from, or running over, a text for people, anywhere in the file."""
    told: set[str] = set()
    while True:
        before = len(told)
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                targets, source = node.targets, node.value
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
                targets, source = [node.target], node.value
            elif isinstance(node, ast.For | ast.comprehension):
                targets, source = [node.target], node.iter
            else:
                continue
            if is_text(source, told, UNEQUAL):
                told |= {target.id for target in targets if isinstance(target, ast.Name)}
        if len(told) == before:
            return told
