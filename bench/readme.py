"""`python -m bench.readme`: run what README shows and put down what it printed.

README holds three kinds of marks, invisible where it is read:

- ``<!-- run -->`` before a block of Python or shell: it runs, in a process of its own, one after another in one empty
  folder. Where ``<!-- printed -->`` follows, up to ``<!-- end of printed -->``, its output comes in there.
- ``<!-- output of: COMMAND -->`` to ``<!-- end of output -->``: the command runs in the repository.
- ``<!-- lessons -->`` to ``<!-- end of lessons -->``: filled by ``examples/lessons.py``.

Paragraphs of output that are long are cut in the middle. Speed is not measured here: the marks ``<!-- bench:NAME -->``
are filled from bench/results by ``python -m bench --report``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "README.md"
LESSONS = ("range", "range-sgd", "mini")
HEAD, TAIL = 3, 2
"""Lines of a long paragraph that stay."""

RUN = re.compile(
    r"<!-- run -->\n+```(?P<language>python|sh)\n(?P<code>.*?)```\n"
    r"(?:\n*(?P<begin><!-- printed -->\n).*?(?P<end><!-- end of printed -->))?",
    re.DOTALL,
)
OUTPUT = re.compile(r"(?P<begin><!-- output of: (?P<command>.*?) -->\n).*?(?P<end><!-- end of output -->)", re.DOTALL)


class Block(NamedTuple):
    """A piece of README that runs."""

    language: str
    code: str


def blocks(page: str) -> list[Block]:
    return [Block(found["language"], found["code"]) for found in RUN.finditer(page)]


def run(block: Block, folder: Path | str) -> str:
    """What a block prints, errors of the shell and progress apart; a failure is an error."""
    command = [sys.executable, "-c", block.code] if block.language == "python" else ["bash", "-ec", block.code]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # where `minicf` and `python` are
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"this does not run:\n{block.code}\n{done.stderr}")
    return done.stdout


def shortened(text: str) -> str:
    """Without the middle of long paragraphs."""
    paragraphs = []
    for paragraph in text.strip("\n").split("\n\n"):
        lines = paragraph.split("\n")
        if len(lines) > HEAD + TAIL + 1:
            indent = re.match(" *", lines[HEAD])
            lines = [*lines[:HEAD], f"{indent[0] if indent else ''}…", *lines[-TAIL:]]
        paragraphs.append("\n".join(line.rstrip() for line in lines))
    return "\n\n".join(paragraphs)


def fenced(text: str) -> str:
    return f"```text\n{shortened(text)}\n```\n"


def filled(page: str) -> str:
    """The page with what its blocks and commands print now."""
    with tempfile.TemporaryDirectory(prefix="minicf-readme-") as folder:

        def printed(found: re.Match[str]) -> str:
            text = run(Block(found["language"], found["code"]), folder)
            if found["begin"] is None:
                return found[0]
            return found[0][: found.start("begin") - found.start()] + found["begin"] + fenced(text) + found["end"]

        page = RUN.sub(printed, page)
    return OUTPUT.sub(
        lambda found: found["begin"] + fenced(run(Block("sh", found["command"]), ROOT)) + found["end"], page
    )


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    only = [word for name in LESSONS for word in ("--only", name)]
    command = [sys.executable, "examples/lessons.py", *only, "--markdown", "README.md"]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
