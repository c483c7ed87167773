"""Griffe extension for the API reference: Sphinx roles as links, field descriptions as docs."""

from __future__ import annotations

import ast
import re
from typing import Any, Final

import griffe

_ROLE: Final = re.compile(r":(?:attr|class|data|func|meth|mod):`([^`]+)`")
_EXAMPLE: Final = re.compile(r"^Example:$", re.MULTILINE)
_LITERAL: Final = re.compile(r"^::$\n", re.MULTILINE)


class PackageDocstrings(griffe.Extension):
    """Converts Sphinx roles into links, and pydantic descriptions into docstrings."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:  # noqa: ANN401
        """Rewrite the docstring of one object."""
        if isinstance(obj, griffe.Attribute):
            field = _field_arguments(obj.value)
            if obj.docstring is None and "description" in field:
                description = str(ast.literal_eval(str(field["description"])))
                obj.docstring = griffe.Docstring(description, parent=obj)
            if field:
                obj.value = field.get("default")
        if obj.docstring is not None:
            scope = obj.path if obj.is_class or obj.is_module else getattr(obj.parent, "path", "")
            text = _ROLE.sub(lambda match: _link(match[1], scope), obj.docstring.value)
            obj.docstring.value = _LITERAL.sub("", _EXAMPLE.sub("Examples:", text))


def _link(target: str, scope: str) -> str:
    path = target.lstrip("~")
    shown = path.rpartition(".")[2] if target.startswith("~") else path
    full = path if path.startswith("rerank_plugins.") else f"{scope}.{path}"
    # Optional, because some names in docstrings are on no page.
    return f'<autoref identifier="{full}" optional><code>{shown}</code></autoref>'


def _field_arguments(value: Any) -> dict[str, Any]:  # noqa: ANN401  (a griffe expression)
    """Return the keyword arguments of a call of pydantic's Field, or {} for other values."""
    if not isinstance(value, griffe.ExprCall) or str(value.function) != "Field":
        return {}
    arguments = (item for item in value.arguments if isinstance(item, griffe.ExprKeyword))
    return {argument.name: argument.value for argument in arguments}
