"""Writes docs/reference.md: the contract, from its docstrings.

    python docs/make_reference.py

A test fails while the file differs from what this makes.
"""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

CONTRACT = Path(__file__).parents[1] / "core" / "hardpoint" / "contract"
TARGET = Path(__file__).parent / "reference.md"
HEAD = """# The contract

What a plugin implements and is given, from the docstrings of `hardpoint.contract`. Written by `python docs/make_reference.py`.
"""


def reference() -> str:
    """Return the whole document."""
    modules = sorted(path for path in CONTRACT.glob("*.py") if not path.name.startswith("_"))
    return "\n".join([HEAD, *(_module(path) for path in modules)])


def _module(path: Path) -> str:
    tree = ast.parse(path.read_text())
    parts = [f"## hardpoint.contract.{path.stem}\n", (ast.get_docstring(tree) or "") + "\n"]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            parts.append(_class(node))
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            parts.append(f"### `{_signature(node)}`\n\n{_text(node)}")
    return "\n".join(parts)


def _class(node: ast.ClassDef) -> str:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    parts = [f"### class {node.name}" + (f"({bases})" if bases else "") + "\n", _text(node)]
    for member in node.body:
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
            default = "" if member.value is None else f" = {ast.unparse(member.value)}"
            parts.append(f"- `{member.target.id}: {ast.unparse(member.annotation)}{default}`")
    parts += [
        f"\n#### `{_signature(member)}`\n\n{_text(member)}".rstrip("\n")
        for member in node.body
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("_")
    ]
    return "\n".join(parts) + "\n"


def _signature(node: ast.FunctionDef) -> str:
    plain = ast.FunctionDef(
        name=node.name, args=node.args, body=[ast.Pass()], decorator_list=[], returns=node.returns, type_params=[]
    )
    return ast.unparse(ast.fix_missing_locations(plain)).splitlines()[0].removeprefix("def ").removesuffix(":")


def _text(node: ast.ClassDef | ast.FunctionDef) -> str:
    found = ast.get_docstring(node)
    return "" if found is None else textwrap.dedent(found) + "\n"


if __name__ == "__main__":
    TARGET.write_text(reference())
