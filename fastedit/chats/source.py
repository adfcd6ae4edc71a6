"""What the source of a chat template tells, as Jinja parses it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import Environment, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension

# What transformers gives to every template, beside Jinja's own functions.
_FUNCTIONS = frozenset({"raise_exception", "strftime_now"})
_KINDS = frozenset({"string", "iterable", "sequence", "mapping"})


class Source(NamedTuple):
    """variables: that it reads; texts: its constants; goes_through_parts: it loops over contents;
    tells_apart: it asks whether a value is a text or a list.
    """

    variables: frozenset[str]
    texts: frozenset[str]
    goes_through_parts: bool
    tells_apart: bool


class _Generation(Extension):
    """`{% generation %}` of transformers, around what the assistant says."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


@lru_cache(maxsize=16)
def parsed(template: str) -> Source:
    """Raises ValueError for a template that is none."""
    environment = Environment(  # nothing is rendered with it
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
        autoescape=False,
    )
    try:
        tree = environment.parse(template)
    except TemplateSyntaxError as error:
        raise ValueError(f"the chat template cannot be parsed: {error}") from error
    texts = (constant.value for constant in tree.find_all(nodes.Const))
    return Source(
        frozenset(meta.find_undeclared_variables(tree)) - environment.globals.keys() - _FUNCTIONS,
        frozenset(text for text in texts if isinstance(text, str)),
        any(_is_content(loop.iter) for loop in tree.find_all(nodes.For)),
        any(test.name in _KINDS for test in tree.find_all(nodes.Test)),
    )


def _is_content(value: nodes.Node | None) -> bool:
    """Whether a value is the content of a message, not what a method makes of it."""
    while isinstance(value, nodes.Filter):
        value = value.node
    if isinstance(value, nodes.Name):
        return value.name.endswith("content")
    if isinstance(value, nodes.Getattr):
        return value.attr.endswith("content")
    if isinstance(value, nodes.Getitem) and isinstance(value.arg, nodes.Slice):
        return _is_content(value.node)
    return (
        isinstance(value, nodes.Getitem)
        and isinstance(value.arg, nodes.Const)
        and value.arg.value == "content"
    )
