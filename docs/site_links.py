"""A hook of `make docs`: links from a page to files of the repository become their paths.

The pages are read in a clone, too, where such links lead somewhere; the site has no such files.
"""

import re

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    return _OUTSIDE.sub(_as_path, markdown)


def _as_path(link: re.Match[str]) -> str:
    text, path = link.groups()
    return f"`{path}`" if path.endswith(text.strip("`")) else f"{text} (`{path}`)"
