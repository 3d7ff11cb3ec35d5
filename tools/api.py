"""Writes nbs/api.ipynb: every exported name with its signature, its parameters and its chapter.

`--check` only compares.
"""

import ast
import re
import sys
import textwrap

from book import NBS, ROOT, anchor, as_notebook, cells, chapters, headings, markdown_cell, title, write

sys.path.insert(0, str(ROOT))  # the script's own copy of the package
from ftguide.engine.docments import ModuleSource, fields, parameters, returns_comment

TITLE = """# Every function

> All exported names, with their parameters, shapes and units, and the place where they are explained

This page is made by a script from the comments beside the parameters, so it says what the code says. \
What most people need stands in `ftguide` itself: `from ftguide import load, finetune_sft`."""


def plain(text: str) -> str:
    "A comment as table text."
    parts = text.split("`")
    if len(parts) % 2 == 0:
        parts = [text.replace("`", "'")]
    return "`".join(
        p.replace("|", " or ") if i % 2 else re.sub(r"([\\*_$\[\]|~])", r"\\\1", p).replace("<", "&lt;")
        for i, p in enumerate(parts)
    )


def code(node) -> str:
    return (
        "`"
        + ast.unparse(node)
        .replace(" | ", " or ")
        .replace("field(default_factory=list)", "[]")
        .replace("field(default_factory=dict)", "{}")
        + "`"
        if node is not None
        else ""
    )


class Source(ModuleSource):
    "A module with the names it exports, and the cell each line comes from."

    def __init__(self, path):
        super().__init__(path.read_text(encoding="utf-8"))
        self.cells = [
            (n, c.split("#")[-1]) for n, c in sorted(self.comments.items()) if re.match(r"%% \S+\.ipynb #", c)
        ]
        self.names = ast.literal_eval(self.of("__all__").value)

    def cell(self, node) -> str:
        return [c for n, c in self.cells if n < node.lineno][-1]


def returns(source, function) -> str:
    said = returns_comment(source, function)
    bare = function.returns is None and not said
    return "" if bare else ": ".join(x for x in (code(function.returns), plain(said)) if x)


def beside(source, function) -> str:
    "A comment on a one-line head that is not about what comes back."
    said = source.comment(function.lineno) if function.returns is None else ""
    return "" if said.startswith("-> ") else plain(said)


def signature(name, source, function, skip=0) -> str:
    words = [
        n + (f"={ast.unparse(d)}" if d is not None else "")
        for n, _, d, _ in parameters(source, function, skip)
    ]
    if function.args.kwonlyargs and not function.args.vararg:
        words.insert(len(function.args.posonlyargs + function.args.args) - skip, "*")
    line = f"{name}({', '.join(words)})"
    return (
        line
        if len(line) < 80
        else f"{name}(\n"
        + textwrap.fill(
            ", ".join(w.replace(" ", "\x00") for w in words),
            76,
            initial_indent="    ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        ).replace("\x00", " ")
        + "\n)"
    )


def table(rows) -> str:
    rows = [(f"`{n}`", code(t), code(d), plain(c)) for n, t, d, c in rows]
    if not any(t or d or c for _, t, d, c in rows):
        return ""
    return "\n".join(
        [
            "| parameter | type | default | |",
            "|---|---|---|---|",
            *["| " + " | ".join(r) + " |" for r in rows],
        ]
    )


def entry(source, name, place) -> str:
    node = source.of(name)
    parts = [f"### `{name}`", place]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        names = getattr(getattr(node, "targets", [None])[0], "elts", [])
        value = ast.unparse(node.value.elts[[n.id for n in names].index(name)] if names else node.value)
        if len(value) >= 90:
            value = textwrap.shorten(value, 88, placeholder=" …")
        parts.append(f"```python\n{name} = {value}\n```")
        if source.comment(node.end_lineno):
            parts.append(plain(source.comment(node.end_lineno)))
        return "\n\n".join(parts)
    if doc := ast.get_docstring(node):
        parts.append(plain(doc))
    if isinstance(node, ast.FunctionDef):
        back = returns(source, node)
        return "\n\n".join(
            x
            for x in [
                *parts,
                f"```python\n{signature(name, source, node)}\n```",
                beside(source, node),
                table(parameters(source, node)),
                f"**Returns** {back}" if back else "",
            ]
            if x
        )
    bases = ", ".join(ast.unparse(b) for b in node.bases)
    if bases:
        parts.append(f"A kind of `{bases}`.")
    start = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if start:
        parts += [f"```python\n{signature(name, source, start, 1)}\n```", table(parameters(source, start, 1))]
    elif fields(source, node):
        parts.append(table(fields(source, node)))
    for n in node.body:
        if not isinstance(n, ast.FunctionDef) or n.name.startswith("_"):
            continue
        marks = {ast.unparse(d) for d in n.decorator_list}
        if "property" in marks:
            head = f"`.{n.name}`"
        else:
            head = (
                "`"
                + " ".join(signature(f".{n.name}", source, n, 0 if "staticmethod" in marks else 1).split())
                .replace("( ", "(")
                .replace(" )", ")")
                + "`"
            )
        back = returns(source, n)
        said = " ".join(
            x for x in (plain(ast.get_docstring(n) or ""), f"Returns {back}." if back else "") if x
        )
        rows = (
            table([r for r in parameters(source, n, 0 if "staticmethod" in marks else 1)])
            if any(r[3] for r in parameters(source, n, 1))
            else ""
        )
        parts.append(f"- {head}" + (f": {said}" if said else "") + (f"\n\n{rows}" if rows else ""))
    return "\n\n".join(p for p in parts if p)


def identity(module, name, node) -> str:
    "A cell's id: readable, and not the same for `Shape` and `shape`."
    kind = {ast.ClassDef: "-class", ast.FunctionDef: ""}.get(type(node), "-value")
    return f"api-{module}-{name.lower().replace('_', '-')}"[:58].strip("-") + kind


def page() -> str:
    items, contents = [], []
    for path in chapters():
        module = next(
            (m[1] for c in cells(path) if (m := re.match(r"#\| default_exp: (\w+)", c["source"]))), None
        )
        if not module:
            continue
        source, heads = Source(ROOT / f"ftguide/{module}.py"), {}
        last = ""
        for c in cells(path):
            last = next((h for i, level, h in reversed(headings(path)) if i == c["id"] and level > 1), last)
            heads[c["id"]] = last
        names = sorted((n for n in source.names if source.of(n)), key=lambda n: source.of(n).lineno)
        contents.append(
            f"| [`ftguide.{module}`](#ftguide.{module}) | [{title(path)}]({path.name}) | {len(names)} |"
        )
        items.append(
            markdown_cell(f"api-{module}", f"## `ftguide.{module}`\n\nFrom [{title(path)}]({path.name}).")
        )
        for name in names:
            head = heads.get(source.cell(source.of(name)), "")
            place = (
                f"[{title(path)}: {head}]({path.name}#{anchor(head)})"
                if head
                else f"[{title(path)}]({path.name})"
            )
            items.append(markdown_cell(identity(module, name, source.of(name)), entry(source, name, place)))
    first = TITLE + "\n\n| module | chapter | names |\n|---|---|---|\n" + "\n".join(contents)
    return as_notebook([markdown_cell("api-title", first), *items])


if __name__ == "__main__":
    write({NBS / "api.ipynb": page()})
