"What a function says of its parameters: the comments beside them, read from the file without importing it."

# A docment is a comment behind a parameter, one parameter a line (the word is fastcore's). The API pages and
# the help of the commands are made from docments, so that nothing is said twice.

import ast
import io
import re
import tokenize
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import NamedTuple


class Parameter(NamedTuple):
    name: str  # with its stars: *rows, **config
    annotation: ast.expr | None
    default: ast.expr | None
    comment: str  # empty when there is none


class ModuleSource:
    "The definitions of a piece of Python source, and the comments of its lines."

    def __init__(self, text: str):
        self.tree = ast.parse(text)
        self.comments = {
            token.start[0]: token.string.lstrip("# ").strip()
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type == tokenize.COMMENT
        }

    def of(self, name: str) -> ast.stmt | None:
        "The top-level definition or assignment of a name."
        return next((node for node in self.tree.body if name in _names(node)), None)

    def comment(self, line: int) -> str:
        return self.comments.get(line, "")


def _names(node: ast.stmt) -> list[str]:
    "What a top-level statement defines."
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    single = [t for target in targets for t in getattr(target, "elts", [target])]
    return [t.id for t in single if isinstance(t, ast.Name)]


def parameters(source: ModuleSource, function: ast.FunctionDef, skip: int = 0) -> list[Parameter]:
    "A function's parameters, without the first `skip`; a comment on a one-line head belongs to none of them."
    given = function.args
    named = given.posonlyargs + given.args
    defaults = [None] * (len(named) - len(given.defaults)) + given.defaults
    rows = list(zip([a.arg for a in named], named, defaults))[skip:]
    if given.vararg:
        rows.append(("*" + given.vararg.arg, given.vararg, None))
    rows += zip([a.arg for a in given.kwonlyargs], given.kwonlyargs, given.kw_defaults)
    if given.kwarg:
        rows.append(("**" + given.kwarg.arg, given.kwarg, None))
    return [
        Parameter(
            name,
            a.annotation,
            default,
            source.comment((default or a).end_lineno) if a.lineno != function.lineno else "",
        )
        for name, a, default in rows
    ]


def fields(source: ModuleSource, node: ast.ClassDef) -> list[Parameter]:
    "A dataclass's fields."
    return [
        Parameter(n.target.id, n.annotation, n.value, source.comment(n.end_lineno))
        for n in node.body
        if isinstance(n, ast.AnnAssign)
    ]


def returns_comment(source: ModuleSource, function: ast.FunctionDef) -> str:
    "The comment about what comes back: on the line that closes the head, or beside a one-line head."
    line = function.body[0].lineno
    one_line = line == function.lineno
    heads = [n for n in range(function.lineno, line) if source.comment(n)] or [line] * one_line
    if not heads:
        return ""
    last = max((x.end_lineno for x in ast.walk(function.args) if hasattr(x, "end_lineno")), default=0)
    said = source.comment(heads[-1]) if heads[-1] > last or heads[-1] == function.lineno else ""
    if heads[-1] == function.lineno and function.returns is None and not said.startswith("-> "):
        return ""
    return re.sub(r"^-> ", "", said)


@cache
def docments(module: str, name: str) -> dict[str, str]:
    "Parameter -> comment, of a function or a dataclass; a name that the module imports is looked up there."
    lines, tree = _read(module)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            imported = {alias.asname or alias.name: alias.name for alias in node.names}
            if name in imported:
                origin = "." * node.level + (node.module or "")
                return docments(resolve_name(origin, module.rpartition(".")[0]), imported[name])
        if name in _names(node):
            source = ModuleSource("\n".join(lines[node.lineno - 1 : node.end_lineno]))
            found = source.tree.body[0]
            read = fields if isinstance(found, ast.ClassDef) else parameters
            return {p.name: p.comment for p in read(source, found)}
    raise LookupError(f"{module} has no {name}")


@cache
def _read(module: str) -> tuple[list[str], ast.Module]:
    "Lines and syntax tree of a module that is found and not imported."
    found = find_spec(module)
    if found is None:
        raise LookupError(f"no module {module}")
    text = Path(found.origin).read_text(encoding="utf-8")
    return text.splitlines(), ast.parse(text)
