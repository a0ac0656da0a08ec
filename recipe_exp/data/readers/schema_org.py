"""Recipes in the vocabulary of schema.org (JSON-LD), in the shapes that pages give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_NODE_KEYS = ("@type", "@graph", "@context")


def is_linked_data(value: Mapping[str, object]) -> bool:
    """Whether the object is a node of JSON-LD, or holds some."""
    return any(key in value for key in _NODE_KEYS)


def recipes_in(value: object) -> Iterator[Mapping[str, object]]:
    """Yields every object of type Recipe in the order in which they stand, however deep: in a list, in `@graph`, in the
    page's `mainEntity`. What stands inside a recipe is part of it."""
    remaining = [value]
    while remaining:
        node = remaining.pop()
        if isinstance(node, list):
            remaining.extend(reversed(node))
        elif isinstance(node, dict):
            if _is_recipe(node):
                yield node
            else:
                remaining.extend(reversed(node.values()))


def _is_recipe(node: Mapping[str, object]) -> bool:
    kinds = node.get("@type")
    names = kinds if isinstance(kinds, list) else [kinds]
    # `http://schema.org/Recipe` and `schema:Recipe` are the same type.
    return any(isinstance(name, str) and name.replace(":", "/").rpartition("/")[2] == "Recipe" for name in names)
