"""YAML files that somebody else wrote: plain values only, and bounded in size, depth and what aliases stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from recipe_exp.config.messages import in_one_line, show_path
from recipe_exp.errors import ConfigError
from recipe_exp.files import read_regular_file
from recipe_exp.secrets import redact

MAX_FILE_BYTES = 2 * 2**20
MAX_VALUES = 20_000
MAX_DEPTH = 32

_CHARACTERS_OF_A_VALUE = 200
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge")}


def read_text(path: Path) -> str:
    """Returns the text of a configuration file.

    Raises:
        ConfigError: it is missing, no regular file, too large or not UTF-8.
    """
    try:
        return read_regular_file(path, MAX_FILE_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError([f"{show_path(path)}: cannot be read: {error.strerror or error}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{show_path(path)}: is not UTF-8; save it as UTF-8 text"]) from None


def parse(text: str, path: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> dict[Any, Any]:
    """Returns the keys and values of a YAML text, `{}` for an empty one.

    Args:
        text: one document.
        path: where it stands, for messages.
        loader: says how plain scalars become numbers and texts.

    Raises:
        ConfigError: it is no YAML, holds a tag, the same key twice, or more than the bounds allow, or is no mapping.
    """
    where = show_path(path)
    try:
        data = yaml.load(text, Loader=_bounded(loader))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        line, problem = _explain(error, text)
        raise ConfigError([f"{where}{line}: cannot be read as YAML: {in_one_line(redact(problem), 200)}"]) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        found = "a list" if isinstance(data, list) else "a single value"
        raise ConfigError([f"{where}: holds {found}; write keys with their values, such as `seed: 1`"])
    return data


def _explain(error: Exception, text: str) -> tuple[str, str]:
    """Returns the line as `:3`, empty if it is not known, and what is wrong there."""
    if isinstance(error, yaml.MarkedYAMLError):
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = error.problem or ""
        return line, f"{error.context}, {problem}" if error.context and problem.startswith("but") else problem
    if isinstance(error, yaml.reader.ReaderError):
        line = f":{text.count(chr(10), 0, error.position) + 1}"
        return line, f"the character U+{error.character:04X} is no text"
    problem = " ".join(str(error).split())
    return "", "a number has too many digits" if "integer string conversion" in problem else problem


class _Bounds:
    """Makes a loader stop at the first thing that is no plain value or is more than the bounds allow.

    A value that aliases repeat is counted as often as it is repeated, before anything is built of it.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)  # type: ignore[call-arg]
        self._depth = 0
        self._num_values = 0
        self._weights: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        loader: Any = self
        event = loader.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node: Any = super().compose_node(parent, index)  # type: ignore[misc]
            if id(node) not in self._weights:
                raise _refusal("an alias stands for what it is a part of", event)
            return node
        self._depth += 1
        self._num_values += 1
        if self._depth > MAX_DEPTH or self._num_values > MAX_VALUES:
            what = f"nested over {MAX_DEPTH} levels deep" if self._depth > MAX_DEPTH else f"over {MAX_VALUES:,} values"
            raise _refusal(what, event)
        node = super().compose_node(parent, index)  # type: ignore[misc]
        self._depth -= 1
        self._weigh(node)
        return node

    def _weigh(self, node: yaml.Node) -> None:
        if node.tag not in _PLAIN_TAGS:
            name = node.tag.removeprefix("tag:yaml.org,2002:")
            raise _refusal(f"tags such as {name} are not used here; write a plain value", node)
        if isinstance(node, yaml.ScalarNode):
            weight = 1 + len(node.value) // _CHARACTERS_OF_A_VALUE
        elif isinstance(node, yaml.MappingNode):
            _check_keys([key for key, _ in node.value])
            weight = 1 + sum(self._weights[id(part)] for pair in node.value for part in pair)
        else:
            weight = 1 + sum(self._weights[id(item)] for item in node.value)
        if weight > MAX_VALUES:
            raise _refusal(f"over {MAX_VALUES:,} values, aliases counted", node)
        self._weights[id(node)] = weight


def _check_keys(keys: list[yaml.Node]) -> None:
    seen = set()
    for key in keys:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:null":
            raise _refusal("a key must be plain text", key)
        if key.value in seen:
            raise _refusal(f"the key {key.value} stands here twice", key)
        seen.add(key.value)


def _bounded(loader: type[yaml.SafeLoader]) -> type[yaml.SafeLoader]:
    return type("BoundedLoader", (_Bounds, loader), {})


def _refusal(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)
