"""What is made from the parser: help by groups, completion, the manual page."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from samples import ROOT

from prequential.cli import entry, main


def test_help_has_every_command_once_and_examples_that_are_parsed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    listed = re.findall(r"^  (\w+) +[a-z]", text, re.MULTILINE)
    assert listed == list(entry.build_parser().commands)
    assert len(set(listed)) == len(entry.COMMANDS)
    examples = re.findall(r"^  example: +(.*)", text, re.MULTILINE)
    assert len(examples) == len(entry.GROUPS)
    for example in examples:
        for command in example.split(" && "):
            name, *argv = shlex.split(command.partition(" > ")[0])
            assert name == "preq"
            assert entry._parse(argv).run


def completion(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def test_bash_completes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script = completion("bash", capsys)
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    (tmp_path / "report.txt").touch()

    def complete(*words: str) -> list[str]:
        """What bash offers for the last word."""
        line = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
        call = "_shtab_preq preq \"${COMP_WORDS[-1]}\" ''; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
        shell = ["bash", "--norc", "-c", f"{script}\n{line}{call}"]
        done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("preq", "enc") == ["encode"]
    assert complete("preq", "encode", "--pres") == ["--preset"]
    assert complete("preq", "encode", "--preset", "fa") == ["fast"]
    assert complete("preq", "encode", "rep") == ["report.txt"]
    assert complete("preq", "decode", "-o", "rep") == ["report.txt"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_what_the_shell_can_read(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script = completion(shell, capsys)
    for name in entry.build_parser().commands:
        assert name in script
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    (tmp_path / "script").write_text(script)
    assert subprocess.run([shell, "-n", str(tmp_path / "script")]).returncode == 0


def test_without_shtab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    told = "preq: error: completion: needs shtab, which is not installed: pip install"
    assert capsys.readouterr().err == f"{told} 'prequential[completion]'\n"


@pytest.mark.skipif(shutil.which("argparse-manpage") is None, reason="no argparse-manpage")
def test_the_manual_page() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([ROOT / "scripts" / "man"], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    page = done.stdout.decode()
    assert page.startswith('.TH PREQ "1"')
    for name, command in entry.build_parser().commands.items():
        assert f".SS \\fBpreq {name}\\fR" in page
        for action in command._actions:
            for flag in action.option_strings:
                assert flag == "-h" or flag == "--help" or flag.replace("-", "\\-") in page
    if shutil.which("groff"):
        shown = subprocess.run(
            ["groff", "-man", "-ww", "-z"], input=done.stdout, capture_output=True, check=True
        )
        assert shown.stderr == b""
