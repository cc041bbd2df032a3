"""What the site does with the pages, which are written for forges.

Pages of the repository that lie outside of docs/ become pages of the site. Relative links lead to the same page
there as in the repository. Markdown is read as forges read it.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File
from pygments.lexer import RegexLexer, bygroups, words
from pygments.lexers import LEXERS, _lexer_cache
from pygments.token import Comment, Keyword, Name, Number, Operator, Punctuation, String, Text

ROOT = Path(__file__).resolve().parents[2]

# Where a page of the repository is on the site.
OUTSIDE = {
    "sdk/python/README.md": "start/python.md",
    "sdk/typescript/README.md": "start/typescript.md",
    "sdk/rust/README.md": "start/rust.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
}
INSIDE = {on_site: place for place, on_site in OUTSIDE.items()}

LINK = re.compile(r"(?<!!)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^ *(`{3,}|~{3,})")
ITEM = re.compile(r"^(\d+\.|[-*]) ")


class Cedar(RegexLexer):
    """Cedar policies, which Pygments does not know."""

    name = "Cedar"
    aliases = ["cedar"]
    tokens = {
        "root": [
            (r"//.*$", Comment.Single),
            (r'"(\\.|[^"\\])*"', String),
            (r"(@)(\w+)", bygroups(Operator, Name.Decorator)),
            (words(("permit", "forbid", "when", "unless", "if", "then", "else"), suffix=r"\b"), Keyword),
            (words(("in", "has", "like", "is"), suffix=r"\b"), Operator.Word),
            (words(("true", "false"), suffix=r"\b"), Keyword.Constant),
            (words(("principal", "action", "resource", "context"), suffix=r"\b"), Name.Builtin),
            (r"\b[A-Z]\w*(?=::)", Name.Class),
            (r"\d+", Number),
            (r"\w+", Name),
            (r"[=!<>&|+*.-]+|::", Operator),
            (r"[(){}\[\],;:?]", Punctuation),
            (r"\s+", Text),
        ]
    }


def on_startup(**_):
    LEXERS["Cedar"] = (__name__, "Cedar", ("cedar",), ("*.cedar",), ())
    _lexer_cache["Cedar"] = Cedar


def on_files(files, config):
    for place, on_site in OUTSIDE.items():
        files.append(File.generated(config, on_site, abs_src_path=str(ROOT / place)))
    return files


def place_of(page):
    """The page's path in the repository."""
    return INSIDE.get(page.file.src_uri, f"docs/{page.file.src_uri}")


def on_page_markdown(markdown, page, config, files):
    if page.file.src_uri == "README.md":
        page.meta.update(hide=["navigation", "toc"], title="Dayfly")
        # The sentence below the name.
        markdown = re.sub(r"^(# .+\n\n.+)$", r"\1\n{ .lead }", markdown, count=1, flags=re.MULTILINE)
    folder = posixpath.dirname(place_of(page))

    def follow(match):
        text, target = match["text"], match["target"]
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        place = posixpath.normpath(posixpath.join(folder, path))
        on_site = OUTSIDE.get(place, place.removeprefix("docs/"))
        if (place.startswith("docs/") or place in OUTSIDE) and files.get_file_from_path(on_site):
            start = posixpath.dirname(page.file.src_uri) or "."
            return f"[{text}]({posixpath.relpath(on_site, start)}{hash_}{anchor})"
        if place == "README.md":
            return f"[{text}]({posixpath.relpath('README.md', posixpath.dirname(page.file.src_uri) or '.')})"
        sources = config.extra["sources"].rstrip("/")
        return f"[{text}]({sources}/{place}{hash_}{anchor})" if sources else text

    lines = outside_of_code(deeper(markdown), lambda line: LINK.sub(follow, line))
    # What is said to tests/docs/follow.py.
    return "\n".join(line for line in lines if not re.fullmatch(r" *<!-- .* -->", line))


def outside_of_code(lines, change):
    fence = None
    for line in lines:
        mark = FENCE.match(line)
        if fence:
            fence = None if mark and mark[1].startswith(fence) else fence
        elif mark:
            fence = mark[1]
            # A language and the name of a file.
            line = re.sub(r"^( *`{3,})(\w+) (\S+)$", r'\1{ .\2 title="\3" }', line)
        else:
            line = change(line)
        yield line


def deeper(markdown):
    """What belongs to an item of a list, four columns in: Python-Markdown wants that, forges what they are told."""
    width = 0
    for line in markdown.splitlines():
        if item := ITEM.match(line):
            width = len(item[0])
        elif line and not line.startswith(" "):
            width = 0
        elif width and line.startswith(" " * width):
            line = " " * 4 + line[width:]
        yield line
