"""Checks the links of the documentation, in its Markdown and in the site that was built of it.

usage: links.py REPOSITORY SITE

Links and anchors have to lead somewhere, and sources that are named have to be there; addresses of others are looked at and not called. Of the site also: a
browser fetches nothing from anywhere else, every page can be reached and found, and no Markdown is left over.
"""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

repository, site = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
faults: list[str] = []

FENCE = re.compile(r"^ *(`{3,})")
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]*)\)")
HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+|localhost|127\.0\.0\.1|\[::1\]")


def external(address: str) -> bool:
    """Whether it is an address of somebody else's, which then has to be one."""
    parts = urlsplit(address)
    if not parts.scheme and not parts.netloc:
        return False
    if parts.scheme == "mailto":
        return True
    if parts.scheme != "https" or not HOST.fullmatch(parts.hostname or ""):
        raise ValueError("no https address")
    return True


# --- Markdown


def prose(text: str) -> tuple[list[str], int]:
    """The lines outside of code, without code in them; and how many blocks of code there are."""
    lines, fence, blocks = [], None, 0
    for line in text.splitlines():
        mark = FENCE.match(line)
        if fence:
            fence = None if mark and mark[1].startswith(fence) else fence
        elif mark:
            fence, blocks = mark[1], blocks + 1
        else:
            lines.append(line)
    return lines, blocks


def anchors(path: Path) -> set[str]:
    found: set[str] = set()
    for line in prose(path.read_text())[0]:
        if line.startswith("#"):
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line.lstrip("#").strip()).lower()
            anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
            count = sum(
                known == anchor or re.fullmatch(re.escape(anchor) + r"-\d+", known) is not None
                for known in found
            )
            found.add(f"{anchor}-{count}" if count else anchor)
    return found


def markdown() -> int:
    sources = [
        str(path)
        for folder in ("src", "tests", "benches", "sdk/rust")
        for path in (repository / folder).rglob("*.rs")
    ]
    places = ("*.md", "docs/**/*.md", "sdk/*/README.md", "charts/*/README.md", "packaging/**/README.md")
    pages = [page for place in places for page in repository.glob(place)]
    for page in pages:
        for line in prose(page.read_text())[0]:
            for target in LINK.findall(re.sub(r"`[^`]*`", "``", line)):
                where = f"{page.relative_to(repository)}: {target}"
                try:
                    if external(target):
                        continue
                except ValueError as fault:
                    faults.append(f"{where}: {fault}")
                    continue
                path, _, anchor = target.partition("#")
                leads_to = (page.parent / path).resolve() if path else page
                if not leads_to.exists() or not leads_to.is_relative_to(repository):
                    faults.append(f"{where}: there is no such file")
                elif anchor and leads_to.suffix == ".md" and anchor not in anchors(leads_to):
                    faults.append(f"{where}: there is no such heading")
            # Pages name the tests and sources that show what they say.
            for name in re.findall(r"`([\w/]+\.rs)`", line):
                if not any(f"/{source}".endswith(f"/{name}") for source in sources):
                    faults.append(f"{page.relative_to(repository)}: there is no {name}")
    return len(pages)


# --- The site


class Page(HTMLParser):
    """What a page is made of, and where it leads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.left: list[str] = []
        self.code = 0
        self.inside: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if named.get("id"):
            self.ids.add(named["id"])
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        elif tag == "link" and named.get("rel") not in ("canonical", "prev", "next"):
            self.fetched.append(named.get("href", ""))
        elif (
            tag in ("script", "img", "iframe", "source", "audio", "video", "embed", "track")
            and "src" in named
        ):
            self.fetched.append(named["src"])
        for name in ("srcset", "style"):
            if "://" in named.get(name, ""):
                self.fetched.append(named[name])
        if tag in ("code", "script", "style"):
            self.inside.append(tag)
        self.code += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in self.inside:
            self.inside.remove(tag)

    def handle_data(self, data: str) -> None:
        # Markdown that nobody took for Markdown.
        if not self.inside and re.search(r"```|\]\(|\*\*|^ *\|.*\|", data, re.MULTILINE):
            self.left.append(data.strip()[:60])


def built() -> int:
    pages = {path: Page(path) for path in site.rglob("*.html")}
    start = site / "index.html"
    reached, todo = {start}, [start]
    while todo:
        path = todo.pop()
        for link in pages[path].links:
            target = follow(path, link)
            if target in pages and target not in reached:
                reached.add(target)
                todo.append(target)
    for path, page in pages.items():
        where = path.relative_to(site)
        for link in page.links:
            try:
                if external(link):
                    continue
            except ValueError as fault:
                faults.append(f"site/{where}: {link}: {fault}")
                continue
            target, anchor = follow(path, link), unquote(urlsplit(link).fragment)
            if target is None or not target.is_file():
                faults.append(f"site/{where}: {link}: leads nowhere")
            elif anchor and target in pages and anchor not in pages[target].ids:
                faults.append(f"site/{where}: {link}: there is no such heading")
        for address in page.fetched:
            if urlsplit(address).netloc or "://" in address:
                faults.append(f"site/{where}: {address}: fetched from elsewhere")
            elif not address.startswith("data:") and not (follow(path, address) or site / "none").is_file():
                faults.append(f"site/{where}: {address}: is not there")
        faults.extend(f"site/{where}: left over: {left}" for left in page.left)
        if path not in reached and path.name != "404.html":
            faults.append(f"site/{where}: no page leads there")
    for style in site.rglob("*.css"):
        if re.search(r"""(url\(|@import )["']?(https?:)?//""", style.read_text()):
            faults.append(f"site/{style.relative_to(site)}: fetches from elsewhere")
    return len(pages)


def follow(page: Path, link: str) -> Path | None:
    path = unquote(urlsplit(link).path)
    # Only the page for what is not there is served at any depth, so only it may begin at the root.
    start = site if path.startswith("/") else page.parent
    target = (start / path.lstrip("/")).resolve() if path else page
    if not target.is_relative_to(site):
        return None
    return target / "index.html" if target.is_dir() else target


def blocks() -> None:
    """Every block of code came through as one."""
    for source in repository.glob("docs/**/*.md"):
        place = source.relative_to(repository / "docs")
        page = site / (place.parent if place.name == "README.md" else place.with_suffix("")) / "index.html"
        if page.is_file() and (count := Page(page).code) != (there := prose(source.read_text())[1]):
            faults.append(f"docs/{place}: {there} blocks of code, {count} on the site")


def search() -> None:
    index = json.loads((site / "search/search_index.json").read_text())
    known = {entry["location"].partition("#")[0] for entry in index["docs"]}
    for path in site.rglob("index.html"):
        place = path.parent.relative_to(site).as_posix()
        if (f"{place}/" if place != "." else "") not in known:
            faults.append(f"site/{place}: the search does not know it")


texts, pages = markdown(), built()
blocks()
search()
if faults:
    sys.exit("\n".join(sorted(set(faults))))
print(f"docs: {texts} texts and {pages} pages of the site lead where they say")
