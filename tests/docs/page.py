"""What a page of the documentation says to do, and what it says will be printed."""

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<indent> *)(?P<mark>`{3,})(?P<language>\w*)")
REMARK = re.compile(r"^ *<!-- (?P<said>.*) -->$")
REMARKS = {
    "not run", "with dayfly dev", "meanwhile", "file", "adds to", "read by", "exits", "types", "like this",
    "wrong",  # what is expected of a page in tests/docs/wrong
}  # fmt: skip
STAYS = re.compile(r"(stays|in a second terminal), until (\d+) answers")
SHELLS = ("sh", "bash", "console", "shell")
OUTPUTS = ("text", "json")


class Wrong(Exception):
    """The page does not say what happens."""


@dataclass
class Block:
    line: int
    language: str
    text: str
    remarks: dict[str, str]


def read(page: Path) -> list[Block]:
    """The blocks of a page, each with the remarks that stand before it."""
    blocks: list[Block] = []
    remarks: dict[str, str] = {}
    body: list[str] = []
    mark, indent, language, begun = "", 0, "", 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        if mark:
            if fence and fence["mark"].startswith(mark) and not fence["language"]:
                blocks.append(Block(begun, language, "\n".join(body) + "\n", remarks))
                mark, remarks = "", {}
            else:
                body.append(line[indent:] if not line[:indent].strip() else line)
        elif fence:
            mark, indent, body = fence["mark"], len(fence["indent"]), []
            language, begun = fence["language"], number
        elif remark := REMARK.match(line):
            what, _, value = remark["said"].partition(": ")
            if what not in REMARKS and not STAYS.fullmatch(what):
                raise Wrong(f"{page}:{number}: nobody knows the remark `{what}`")
            remarks[what] = value
        elif line.strip() and remarks.keys() - {"with dayfly dev"}:
            raise Wrong(f"{page}:{number}: a remark stands before a block, and this is none")
    return blocks


def inline(page: Path) -> list[tuple[int, str]]:
    """The `dayfly …` commands in the running text."""
    found, inside = [], False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            found += [(number, code) for code in re.findall(r"`(dayfly [^`]+)`", line.replace("\\|", "|"))]
    return found


# --- Commands that are only parsed: the real command line reads them

# At the beginning of a line, behind what ends a command, and behind what runs one: `sudo`, a variable, `kubectl exec … --`.
# By its name or by its path. The rest of the line is looked at from there, since it may have another one.
COMMAND = re.compile(r"(?:^|[|;&(] *|(?:^|\s)(?:--|sudo|\w+=\S+) +)(?:[\w.$~/-]*/)?(?=(dayfly(?: |$).*))")


# What stands for a name in the running text, and a name.
TASK, LEASE = "tsk_01m813pxr5ezdtp24bwze4n0b7", "lse_01m813trvjez4sdx0nfmsb06xf"
PLACES = {
    "TASK": TASK, "$task": TASK, "$part": TASK, "LEASE": LEASE, "AGENT": "an-agent", "TOOL": "a-tool",
    "URL": "https://mcp.example.org/mcp", "SUBJECT": "agent/an-agent", "NAME": "name", "NAME=VALUE": "name=value",
}  # fmt: skip


def commands(text: str) -> list[str]:
    lines = text.replace("\\\n", " ").splitlines()
    return [match[1] for line in lines for match in COMMAND.finditer(line.strip())]


def parse(dayfly: str, command: str, where: str) -> None:
    """Has the real command line read it. `--help` comes last, so whatever is wrong before it is an error."""
    words = []
    try:
        lexer = shlex.shlex(command, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        for word in lexer:
            if set(word) <= set("();<>|&"):
                break
            if word == "--":
                break
            words.append(word)
    except ValueError as fault:
        raise Wrong(f"{where}: {command}: {fault}") from None
    words = [PLACES.get(word, word) for word in words[1:] if not re.search(r"…|^\[|^#", word)]
    done = subprocess.run([dayfly, *words, "--help"], capture_output=True, text=True)
    if done.returncode != 0:
        raise Wrong(f"{where}: {command}\n{done.stderr}")


# --- What was printed

VARIABLE = [
    (re.compile(r"\x1b\[[\d;]*m"), ""),
    (re.compile(r"\w*…"), "…"),
    (re.compile(r"\b(tsk|lse|dec|req)_[0-9a-z]+"), r"\1_ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r"\b[0-9a-f]{16,}\b"), "HEX"),
    (re.compile(r"\d+(\.\d+)?(ms|s|µs)\b"), "LENGTH"),
    (re.compile(r"(?<![\w:])\d+(\.\d+)?\b"), "N"),
    (re.compile(r"\s+"), " "),
]


def plain(line: str) -> str:
    for what, instead in VARIABLE:
        line = what.sub(instead, line)
    return line.strip()


def compare(expected: Block, printed: str, typed: str | None) -> None:
    """Every line that the page shows was printed, in that order. Others may stand between."""
    if expected.language == "json":
        names = re.findall(r'"([\w.-]+)":', expected.text)
        if missing := [name for name in names if not re.search(rf'"{re.escape(name)}" *:', printed)]:
            raise Wrong(f"the answer lacks {missing}")
        return
    text, at = "\n".join(plain(line) for line in printed.splitlines()), 0
    for line in expected.text.splitlines():
        wanted = ".*".join(re.escape(part) for part in plain(line).split("…"))
        if wanted in ("", ".*") or line == typed:
            continue
        # An answer in JSON ends without a new line, and what comes next is printed behind it.
        end = "" if line.startswith("{") else "$"
        match = re.compile(rf"(?:^|(?<=\}})){wanted}{end}", re.MULTILINE).search(text, at)
        if not match:
            raise Wrong(f"this was not printed: {line.strip()}")
        at = match.end()
