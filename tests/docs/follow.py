"""Follows the documentation word by word: every command of every page is run, as somebody new would.

usage: follow.py REPOSITORY DAYFLY FOLDER [PAGE…]

A page is followed from top to bottom in a fresh folder that looks like a clone, in a network of its own where the
system allows that (so every page has port 8440, and nothing reaches the outside), with nothing in the environment.
`cargo run --` is played by the binary that was built. What a page says will be printed has to be printed; ids, times and
numbers may be others, and `…` stands for anything. Remarks in the Markdown, which nobody sees, say what is not plain:

    <!-- not run: REASON -->          the block cannot be run here. Its `dayfly` commands are still parsed by the real one
    <!-- not run: `COMMAND`: REASON -->   the lines that begin with it
    <!-- stays, until 8440 answers -->    it goes on running: what follows is typed into a new terminal, in the folder of before
    <!-- in a second terminal, until 8450 answers -->   the same, and what follows is typed where the reader was
    <!-- with dayfly dev -->          the page says, or takes for granted, that `dayfly dev` runs
    <!-- meanwhile: COMMANDS -->      what others do at that moment; the reader does not
    <!-- file: PATH -->               the block is the content of that file
    <!-- adds to: PATH -->            it stands at the end of that file
    <!-- read by: COMMAND -->         the block is what that command reads
    <!-- exits: 3 -->                 a command of the block is meant to fail, with that code
    <!-- types: yes -->               what the reader types
    <!-- like this: REASON -->        what is printed is an example, and not compared

Commands in the running text are parsed too.
"""

import contextlib
import fcntl
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from select import select

from page import OUTPUTS, SHELLS, STAYS, Block, Wrong, commands, compare, inline, parse, read

PATIENCE = 60


# --- Terminals


class Terminal:
    """A shell into which somebody types."""

    count = 0

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        Terminal.count += 1
        self.files = folder.parent / f"terminal-{Terminal.count}"
        self.files.mkdir()
        self.blocks = 0
        self.shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        self.folder = folder

    def write(self, text: str) -> Path:
        self.blocks += 1
        file = self.files / f"{self.blocks}.sh"
        file.write_text(
            "set -E -o pipefail\ntrap 'failed+=(\"$?: $BASH_COMMAND\")' ERR\n" + text + "\ntrap - ERR\n:\n"
        )
        return file

    def say(self, line: str) -> None:
        assert self.shell.stdin
        self.shell.stdin.write(line.encode() + b"\n")
        self.shell.stdin.flush()

    def run(self, text: str, types: str | None = None) -> tuple[str, list[str]]:
        """What it printed, and which commands failed."""
        file, stdin = self.write(text), "/dev/null"
        if types is not None:
            keyboard, screen = pty.openpty()
            os.write(keyboard, types.encode() + b"\n")
            stdin = os.ttyname(screen)
        end = f"end-of-{file.name}-{os.getpid()}"
        failures = file.with_suffix(".failed")
        self.say(
            f"failed=(); . {file} <{stdin}; printf '%s\\n' \"${{failed[@]}}\" >{failures}; printf '\\n%s\\n' {end} \"$PWD\" {end}"
        )
        out, until = b"", time.monotonic() + PATIENCE
        assert self.shell.stdout
        while out.count(f"\n{end}\n".encode()) < 2:
            left = until - time.monotonic()
            if left <= 0 or not select([self.shell.stdout], [], [], left)[0]:
                raise Wrong(f"it did not end:\n{out.decode(errors='replace')}")
            piece = os.read(self.shell.stdout.fileno(), 65536)
            if not piece:
                raise Wrong(f"the shell ended:\n{out.decode(errors='replace')}")
            out += piece
        said, folder, _ = out.decode(errors="replace").split(f"\n{end}\n")
        self.folder = Path(folder.strip())
        return said.rstrip("\n"), [
            line for line in failures.read_text().splitlines() if re.match(r"\d+: ", line)
        ]

    def start(self, text: str) -> Path:
        """Leaves it running. Where it prints to."""
        file, log = self.write(text), self.files / "log"
        self.say(f"(. {file}) >{log} 2>&1 </dev/null &")
        return log

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.shell.pid, signal.SIGKILL)
        self.shell.wait()


@dataclass
class Reader:
    """Somebody who follows one page."""

    repository: Path
    dayfly: str
    folder: Path
    terminals: list[Terminal] = field(default_factory=list)

    def __post_init__(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.clone, self.bin, home = self.folder / "dayfly", self.folder / "bin", self.folder / "home"
        for new in (self.clone / "target/debug", self.bin, home):
            new.mkdir(parents=True)
        for entry in self.repository.iterdir():
            if entry.name == "config":
                shutil.copytree(entry, self.clone / "config", ignore=shutil.ignore_patterns("data"))
            elif entry.name == "integration":
                # Servers that are started from here keep their state here.
                shutil.copytree(entry, self.clone / "integration", ignore=shutil.ignore_patterns(".state"))
            elif entry.name not in ("target", ".git", ".dayfly"):
                (self.clone / entry.name).symlink_to(entry)
        for place in (self.bin / "dayfly", self.clone / "target/debug/dayfly"):
            place.symlink_to(self.dayfly)
        cargo = self.bin / "cargo"
        cargo.write_text(
            '#!/bin/sh\ncase "$1 $2" in\n"run --") shift 2; exec target/debug/dayfly "$@" ;;\n"build ") ;;\n'
            '*) echo "cargo $*: nobody plays that" >&2; exit 1 ;;\nesac\n'
        )
        cargo.chmod(0o755)
        # As when it prints to a screen.
        (home / ".curlrc").write_text("no-progress-meter\n")
        self.environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
        }
        self.terminal = self.new(self.clone)

    def new(self, folder: Path) -> Terminal:
        self.terminals.append(Terminal(folder, self.environment))
        return self.terminals[-1]

    def stay(self, text: str, port: int, second: bool = False) -> None:
        new = self.new(self.terminal.folder)
        before, self.terminal = (new, self.terminal) if second else (self.terminal, new)
        log = before.start(text)
        until = time.monotonic() + PATIENCE
        while not answers(port):
            if time.monotonic() > until or before.shell.poll() is not None:
                raise Wrong(f"nothing answers at port {port}: {log.read_text()[-2000:]}")
            time.sleep(0.05)

    def follow(self, page: Path) -> tuple[int, list[str]]:
        """How many blocks were run, and what was not, with the reason."""
        left: list[str] = []
        ran, printed, typed = 0, None, None
        # A page that says where the binary is has to say so in every terminal.
        if 'target/debug:$PATH"' in page.read_text():
            (self.bin / "dayfly").unlink()
        page_name = page.relative_to(self.repository)
        for block in read(page):
            where, said = f"{page_name}:{block.line}", block.remarks
            try:
                if "with dayfly dev" in said:
                    self.stay("dayfly dev", 8440)
                if "meanwhile" in said and (failed := self.terminal.run(said["meanwhile"])[1]):
                    raise Wrong(f"what happens meanwhile fails: {failed}")
                if name := said.get("file", said.get("adds to")):
                    file = self.terminal.folder / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    with file.open("w" if "file" in said else "a") as opened:
                        opened.write(block.text if "file" in said else "\n" + block.text)
                elif "read by" in said:
                    file = self.folder / "read"
                    file.write_text(block.text)
                    printed, failed = self.terminal.run(f"{said['read by']} <{file}")
                    if failed:
                        raise Wrong(f"failed: {failed}\n{printed}")
                    ran, printed = ran + 1, None
                elif block.language in SHELLS:
                    printed, typed = self.block(block, where, left), said.get("types")
                    ran += printed is not None
                elif block.language in OUTPUTS and printed is not None:
                    if "like this" not in said:
                        compare(block, printed, typed)
                    printed = None
            except Wrong as wrong:
                shown = "" if printed is None else f"\nprinted:\n{printed}"
                raise Wrong(f"{where}: {wrong}\n{block.text}{shown}") from None
        return ran, left

    def block(self, block: Block, where: str, left: list[str]) -> str | None:
        text, said = block.text, block.remarks
        if "not run" in said:
            reason, only = said["not run"], re.match(r"`([^`]+)`: (.*)", said["not run"])
            left.append(f"{where}: {reason}")
            if not only:
                for command in commands(text):
                    parse(self.dayfly, command, where)
                return None
            text = "\n".join(line for line in text.splitlines() if not line.startswith(only[1]))
        for key in said:
            if stays := STAYS.fullmatch(key):
                self.stay(text, int(stays[2]), second=stays[1] != "stays")
                return None
        printed, failed = self.terminal.run(text, said.get("types"))
        wanted = said.get("exits", "").split()
        if [failure.split(":")[0] for failure in failed] != wanted:
            raise Wrong(f"failed: {failed or 'nothing'}; the page says {wanted or 'nothing'}\n{printed}")
        return printed

    def close(self) -> None:
        for terminal in self.terminals:
            terminal.end()


def answers(port: int) -> bool:
    """Whether somebody listens there, and a broker that does is ready."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(f"http://127.0.0.1:{port}/readyz", timeout=2).close()
    except urllib.error.HTTPError as answer:
        return answer.code != 503
    except OSError:
        return False
    return True


# --- All pages


def alone() -> list[str]:
    """What makes a network for one page, and ends with the page all that it started, if the system lets us."""
    own = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    for way in (["unshare", *own], ["unshare", "--user", "--map-root-user", *own]):
        try:
            if subprocess.run([*way, "true"], capture_output=True).returncode == 0:
                return way
        except FileNotFoundError:
            return []
    return []


def loopback(folder: Path) -> None:
    """Switches on the loopback interface: a new network has it switched off (netdevice(7)). Names of the pages lead there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts").write_text("127.0.0.1 localhost db.example.org\n")
    subprocess.run(["mount", "--bind", folder / "hosts", "/etc/hosts"], check=True)
    with socket.socket() as any_socket:
        flags = struct.pack("16sH14x", b"lo", 0x1 | 0x40)  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, flags)  # SIOCSIFFLAGS


def one(repository: Path, dayfly: str, folder: Path, page: Path) -> None:
    if os.environ.pop("DAYFLY_ALONE", ""):
        loopback(folder.with_name(f"{folder.name}-network"))
    reader = Reader(repository, dayfly, folder)
    try:
        ran, left = reader.follow(page)
    finally:
        reader.close()
    print(ran)
    print("\n".join(left))


def main() -> None:
    repository, dayfly, folder = (Path(argument).resolve() for argument in sys.argv[1:4])
    if sys.argv[4:5] == ["--one"]:
        one(repository, str(dayfly), folder, Path(sys.argv[5]))
        return
    everything = [
        *sorted(repository.glob("*.md")), *sorted(repository.glob("docs/**/*.md")),
        *sorted(repository.glob("sdk/*/README.md")), *sorted(repository.glob("charts/*/README.md")),
        *sorted(repository.glob("packaging/**/README.md")),
    ]  # fmt: skip
    pages = [Path(page).resolve() for page in sys.argv[4:]] or everything
    faults: list[str] = []

    def parse_all(page: Path) -> None:
        for number, command in inline(page):
            try:
                parse(str(dayfly), command, f"{page.relative_to(repository)}:{number}")
            except Wrong as wrong:
                faults.append(str(wrong))

    way = alone()

    def go(page: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
        parse_all(page)
        own = folder / str(page.relative_to(repository).with_suffix("")).replace("/", "-")
        command = [*way, sys.executable, __file__, str(repository), str(dayfly), str(own), "--one", str(page)]
        environment = {**os.environ, **({"DAYFLY_ALONE": "1"} if way else {})}
        return page, subprocess.run(command, capture_output=True, text=True, env=environment)

    def shell(page: Path) -> bool:
        return any(block.language in SHELLS for block in read(page))

    try:
        to_follow = [page for page in pages if shell(page)]
    except Wrong as wrong:
        sys.exit(str(wrong))
    ran, left = 0, []
    if not way:
        # One after the other, since they share ports; and names of others lead nowhere.
        lost = [page for page in to_follow if "meanwhile/database" in page.read_text()]
        to_follow = [page for page in to_follow if page not in lost]
        faults += [
            f"{page.relative_to(repository)}: it takes a network of its own, and this system gives it none: unshare, of util-linux, has to be permitted"
            for page in lost
        ]
    with ThreadPoolExecutor(4 if way else 1) as readers:
        parsed = [readers.submit(parse_all, other) for other in pages if other not in to_follow]
        for page, done in readers.map(go, to_follow):
            if done.returncode != 0:
                last = done.stderr.split("Wrong: ")[-1].strip()
                faults.append(last or f"{page}: {done.returncode}")
                continue
            count, *reasons = done.stdout.strip().splitlines()
            ran += int(count)
            left += reasons
        for one_parsed in parsed:
            one_parsed.result()
    if faults:
        sys.exit("\n\n".join(faults))
    print("\n".join(f"not run: {reason}" for reason in left))
    print(
        f"docs: {len(to_follow)} pages were followed: {ran} blocks of commands were run, {len(left)} could not be"
    )


if __name__ == "__main__":
    main()
