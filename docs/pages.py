"""What mkdocs does not know by itself: pages outside docs/, the commands, links between them all.

A page of docs/ has its place on the site without that folder, everything else its own, so a link
that is right in the repository is right there, too.
"""

from __future__ import annotations

import argparse
import posixpath
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("README", "ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "SECURITY")
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what stands outside of docs/, and the page of commands."""
    from mkdocs.structure.files import File

    for name in OUTSIDE:
        text = (ROOT / f"{name}.md").read_text()
        files.append(File.generated(config, f"{name}.md", content=text))
    for path in sorted((ROOT / "examples").glob("*.png")):
        files.append(File.generated(config, f"examples/{path.name}", abs_src_path=str(path)))
    files.append(File.generated(config, "COMMANDS.md", content=commands()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links within the repository into links within the site."""
    name = page.file.src_uri
    outside = name.removesuffix(".md") in OUTSIDE
    return deepened(relinked(markdown, name if outside else f"docs/{name}"))


def relinked(markdown: str, path: str) -> str:
    """A page's text, of which links to files are those of the site.

    >>> relinked("[a](../README.md#x), [b](log/README.md)", "docs/SCALE.md")
    '[a](README.md#x), [b](log/README.md)'
    >>> relinked("[a](docs/SCALE.md)", "README.md")
    '[a](SCALE.md)'
    """
    folder = posixpath.dirname(path)

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2])).removeprefix("docs/")
        return match[1] + posixpath.relpath(target, folder.removeprefix("docs").lstrip("/") or ".")

    return _LINK.sub(link, markdown)


def deepened(markdown: str) -> str:
    r"""A page's text with four spaces before what belongs to a list's item, as mkdocs wants it.

    >>> deepened("- a\n  b\n  - c")
    '- a\n    b\n    - c'
    """
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [re.sub(r"^ {2,3}(?=\S)", "    ", part, flags=re.MULTILINE) for part in parts[::2]]
    return "".join(parts)


def commands() -> str:
    """The page of all commands and their flags, from the parser."""
    sys.path.insert(0, str(ROOT))
    from prequential.cli import entry, options

    parser = entry.build_parser()
    lines = ["# Command line", "", *block("text", parser.format_usage()), entry._DESCRIPTION]
    for title, modules, example in entry.GROUPS:
        lines += [f"## {title[0].upper()}{title[1:]}", "", *block("sh", example)]
        for name in map(entry._name, modules):
            lines += command(name, parser.commands[name])
    return "\n".join([*lines, "## For all", "", options.EPILOG])


def command(name: str, parser: argparse.ArgumentParser) -> list[str]:
    """A command's section: what it does, its usage, a table of its flags."""
    lines = [f"### preq {name}", "", sentence(parser.description or ""), ""]
    lines += block("text", parser.format_usage().removeprefix("usage: "))
    formatter = parser._get_formatter()
    rows = []
    for action in parser._actions:
        told = formatter._expand_help(action) if action.help else ""
        if told == argparse.SUPPRESS or not (action.option_strings or told):
            continue
        flag = formatter._format_action_invocation(action)
        cells = (f"`{flag}`", " ".join(told.split()))
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return [*lines, "| flag | |", "|---|---|", *rows, "", parser.epilog or "", ""]


def block(language: str, text: str) -> list[str]:
    """Lines as they are."""
    return [f"```{language}", text.rstrip("\n"), "```", ""]


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""
