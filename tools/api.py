"""Writes nbs/api.ipynb and nbs/api/: every exported name with its signature, its parameters and its lesson.

`--check` only compares.
"""

import ast
import re
import sys
import textwrap
from pathlib import Path

from book import NBS, ROOT, anchor, as_notebook, cells, chapters, headings, markdown_cell, title, write

sys.path.insert(0, str(ROOT))  # the script's own copy of the package
from ftguide.engine.docments import ModuleSource, fields, parameters, returns_comment

TITLE = """# Every function

> All exported names, with their parameters, shapes and units, and the place where they are explained

These pages are made by a script from the comments beside the parameters, so they say what the code says. \
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
        named = self.of("__all__")
        self.names = ast.literal_eval(named.value) if named else []

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
    parts = [f"## `{name}`", place]
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


def public_names() -> dict[str, list[str]]:  # module -> names that `from ftguide import …` knows
    found = {}
    for line in (ROOT / "ftguide/__init__.pyi").read_text(encoding="utf-8").splitlines():
        if m := re.match(r"from \.([\w.]+) import (\w+)", line):
            found.setdefault(defined_in(m[1], m[2]), []).append(m[2])
    return found


def defined_in(module: str, name: str) -> str:  # the module, or the one it imports the name from
    source = Source(ROOT / f"ftguide/{module.replace('.', '/')}.py")
    for node in source.tree.body:
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return (node.module or "").removeprefix("ftguide.")
    return module


def lessons() -> dict[str, Path]:  # module -> the lesson it is exported from, in reading order
    found = {}
    for path in chapters():
        for cell in cells(path):
            if m := re.match(r"#\| default_exp: (\w+)", cell["source"]):
                found[m[1]] = path
    return found


def says(source, name) -> str:
    "The first line of what is said about a name."
    node = source.of(name)
    doc = ast.get_docstring(node) if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else ""
    if not doc and node is not None:
        doc = source.comment(node.lineno).removeprefix("-> ")
    return plain((doc or "").split("\n")[0])


def places(path, source) -> dict[str, str]:  # name -> a link to where the lesson explains it
    heads, last = {}, ""
    for cell in cells(path):
        last = next((h for i, level, h in reversed(headings(path)) if i == cell["id"] and level > 1), last)
        heads[cell["id"]] = last
    found = {}
    for name in source.names:
        if source.of(name):
            head = heads.get(source.cell(source.of(name)), "")
            where = f"{title(path)}: {head}" if head else title(path)
            found[name] = f"[{where}](../{path.name}{'#' + anchor(head) if head else ''})"
    return found


def module_page(module: str, path: Path, source: Source, main: list[str]) -> str:
    "The names that `ftguide` itself offers come first, then the others as the lesson makes them."
    where = places(path, source)
    names = sorted(where, key=lambda n: (n not in main, source.of(n).lineno))
    offered = ", ".join(f"`{n}`" for n in names if n in main)
    head = (
        f"# `ftguide.{module}`\n\n> {len(names)} names of the lesson {title(path)}\n\n"
        f"Explained in [{title(path)}](../{path.name})."
        + (f" `from ftguide import …` knows {offered}." if offered else "")
    )
    items = [markdown_cell(f"api-{module}", head)]
    for name in names:
        node = source.of(name)
        items.append(markdown_cell(identity(module, name, node), entry(source, name, where[name])))
    return as_notebook(items)


def by_hand_page(modules: dict[str, list[str]]) -> str:
    "Public names of modules that no lesson exports."
    head = """# Reading, teachers, page and votes

> What `ftguide` offers from modules that are written by hand"""
    items = [markdown_cell("api-by-hand", head)]
    for module, names in modules.items():
        source = Source(ROOT / f"ftguide/{module.replace('.', '/')}.py")
        for name in names:
            id = identity(re.sub(r"[._]", "-", module), name, source.of(name))
            items.append(markdown_cell(id, entry(source, name, f"In `ftguide.{module}`.")))
    return as_notebook(items)


def pages() -> dict[Path, str]:  # file -> its text
    public, of = public_names(), lessons()
    made, tables, names = {}, [], []

    def offered(module, page):
        source = Source(ROOT / f"ftguide/{module.replace('.', '/')}.py")
        for name in public.get(module, []):
            names.append(f"| [`{name}`](api/{page}.ipynb#{anchor(name)}) | {says(source, name)} |")

    for module, path in of.items():
        source = Source(ROOT / f"ftguide/{module}.py")
        made[NBS / f"api/{module}.ipynb"] = module_page(module, path, source, public.get(module, []))
        offered(module, module)
        count = sum(source.of(n) is not None for n in source.names)
        tables.append(
            f"| [`ftguide.{module}`](api/{module}.ipynb) | [{title(path)}]({path.name}) | {count} |"
        )
    by_hand = {module: found for module, found in public.items() if module not in of}
    made[NBS / "api/by_hand.ipynb"] = by_hand_page(by_hand)
    for module in by_hand:
        offered(module, "by_hand")
    tables.append(
        f"| [others](api/by_hand.ipynb) | written by hand | {sum(len(found) for found in by_hand.values())} |"
    )
    head = ["| name | |", "|---|---|"]
    first = "\n".join([TITLE, "", "## `from ftguide import …`", "", *head, *names])
    second = "\n".join(["## Module by module", "", "| module | lesson | names |", "|---|---|---|", *tables])
    made[NBS / "api.ipynb"] = as_notebook(
        [markdown_cell("api-title", first), markdown_cell("api-modules", second)]
    )
    return made


if __name__ == "__main__":
    made = pages()
    write(made)
    for path in set((NBS / "api").glob("*.ipynb")) - set(made):  # of a module that is gone
        sys.exit(f"no module has the page {path.relative_to(ROOT)}; remove it")
