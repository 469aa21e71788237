"""What users expect of a command, from what trials by new users have found."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samples import text

import prequential
from prequential.archive.container import Header, NamedFile
from prequential.archive.files import display, display_target, sibling
from prequential.archive.writer import ArchiveWriter
from prequential.cli import bar, entry, guard, main, options, terminal
from prequential.cli import bench as cli_bench
from prequential.config import Config
from prequential.errors import FileError
from prequential.progress import Progress
from prequential.training.run import Run

TINY = ["--preset", "tiny", "--set", "ngrams.rows_log2=10", "--set", "chunk=8"]
DATA = text(900)
Says = Callable[[], str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(DATA)
    return tmp_path


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Says:
    """The one line on standard error."""

    def read() -> str:
        err = capsys.readouterr().err
        assert err.count("\n") == 1, err
        return err

    return read


def coded(name: str, **fields: Any) -> None:
    """A file with a coded archive's header."""
    size = fields.pop("original_bytes", 5)
    with open(name, "wb") as file:
        ArchiveWriter(file, Header(size, 7, bytes(8), **fields))


# What an archive holds is shown escaped.

EVIL = "\x1b[2J\x07evil\u202e\x9b"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_names_in_an_archive_do_not_reach_the_terminal(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(tokenizer=EVIL)
    coded("c.pq", config=config, prior=NamedFile(bytes(32), EVIL))
    assert main(["info", *flags, "c.pq"]) == 0
    shown = capsys.readouterr().out
    assert "evil" in shown
    assert all(c.isprintable() for c in shown.replace("\n", ""))
    if flags:
        assert json.loads(shown)["config"]["tokenizer"] == EVIL


@pytest.mark.usefixtures("folder")
def test_nor_does_what_a_message_quotes(says: Says) -> None:
    coded("c.pq", config=Config(), prior=NamedFile(bytes(32), EVIL))
    assert main(["decode", "-o", "b", "c.pq"]) == 1
    assert "evil" in (told := says())
    assert all(c.isprintable() for c in told.rstrip("\n"))


# Names.


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("length", [253, 255])
def test_a_name_too_long_for_its_archive_is_refused_before_the_work(
    length: int, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("n" * length).write_bytes(DATA)
    monkeypatch.setattr(Run, "__post_init__", lambda _: pytest.fail("began"))
    assert main(["encode", *TINY, "n" * length]) == 1
    assert f"{'n' * length}.pq: cannot be written: File name too long" in says()


@pytest.mark.usefixtures("folder")
def test_a_long_name_has_a_checkpoint_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    name = "n" * 252
    assert sibling("/x/short", ".checkpoint") == "/x/short.checkpoint"
    assert len(os.path.basename(sibling(f"/x/{name}.pq", ".checkpoint"))) < 50
    Path(name).write_bytes(DATA)
    assert main(["encode", "-q", *TINY, "--checkpoint-seconds", "1e-9", name]) == 0
    assert capsys.readouterr().err == ""
    assert sorted(os.listdir()) == ["a", name, name + ".pq"]


@pytest.mark.usefixtures("folder")
def test_an_empty_name(says: Says) -> None:
    assert main(["encode", ""]) == 1
    assert says().startswith("preq: error: '': cannot be read")
    assert display("-") == "standard input"
    assert display_target("-") == "standard output"


@pytest.mark.usefixtures("folder")
def test_flags_between_files() -> None:
    Path("b").write_bytes(DATA)
    Path("-c").write_bytes(DATA)
    assert main(["encode", "a", *TINY, "b", "-q", "--", "-c"]) == 0
    assert {Path(f"{name}.pq").read_bytes() for name in ("a", "b", "-c")} == {
        Path("a.pq").read_bytes()
    }
    for argv in (["encode", "a", "-q", "--none-such"], ["doctor", "a"], ["test", "-", "-q", "-"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2


# JSON: on standard output, one meaning everywhere.


@pytest.mark.usefixtures("folder")
def test_json_names_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"caf\xe9 \xff")
    Path(name).write_bytes(DATA)
    for command, source, target in (
        ("encode", name, name + ".pq"),
        ("decode", name + ".pq", name),
        ("test", name + ".pq", None),
    ):
        flags = {"encode": ["-f", *TINY], "decode": ["-f"], "test": []}[command]
        assert main([command, "-q", "--json", source, *flags]) == 0
        shown = capsys.readouterr().out
        assert shown.isascii()
        fields = json.loads(shown)
        assert (fields["file"], fields.get("output")) == (source, target)
        assert fields["original_bytes"] == len(DATA)


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "argv", [["mdl", "a", "-q", *TINY], ["mdl", "--code"], ["compare", "a", "--presets", ""]]
)
def test_json_and_json_file(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    argv = argv + ["--methods", "xz"] * (argv[0] == "compare")
    assert main([*argv, "--json", "--json-file", "o"]) == 0
    shown, written = json.loads(capsys.readouterr().out), json.loads(Path("o").read_text())
    assert shown == written
    assert main([*argv, "--json-file", "o"]) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_a_report_that_cannot_be_shown_says_what_was_written(says: Says) -> None:
    with open("/dev/full", "w") as full, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", full)
        assert main(["encode", "-q", *TINY, "--json", "a"]) == 1
    told = says()
    assert "error: standard output: cannot be written: No space" in told
    assert "a.pq is complete" in told
    assert Path("a.pq").exists()


def test_a_stream_that_is_ascii_only(folder: Path) -> None:
    name = "na\u00efve \u4e2d.pq"
    coded(name, config=Config())
    environment = {**os.environ, "PYTHONPATH": str(Path(prequential.__file__).parent.parent)}
    environment |= {"PYTHONIOENCODING": "ascii"}
    for flags in ([], ["--json"]):
        command = [sys.executable, "-m", "prequential", "info", *flags, name]
        done = subprocess.run(command, env=environment, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.isascii()


# info and dry runs.


@pytest.mark.usefixtures("folder")
def test_info_off_a_terminal_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    coded("c.pq", config=Config().resolve(5))
    assert main(["info", "c.pq"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith("sha256")] == [["sha256", "00" * 8]]
    assert not any(line != line.rstrip() for line in lines)


@pytest.mark.usefixtures("folder")
def test_info_says_what_decoding_takes(capsys: pytest.CaptureFixture[str]) -> None:
    config = Config().resolve(1_000_000)
    coded("c.pq", original_bytes=1_000_000, config=config)
    assert main(["info", "--json", "c.pq"]) == 0
    fields = json.loads(capsys.readouterr().out)
    size = fields["archive_bytes"]
    assert fields["bits_per_byte"] == 8 * size / 1_000_000
    assert fields["decode_memory_bytes"] == config.memory_bytes()
    assert fields["decode_seconds_at_most"] == round(10 + 1e6 * config.seconds_per_token(), 1)


@pytest.mark.usefixtures("folder")
def test_info_of_several_is_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    coded("c.pq", config=Config().resolve(5))
    with open("s.pq", "wb") as file:
        ArchiveWriter(file, Header(0, 0, bytes(8), None))
    assert main(["info", "c.pq", "missing", "s.pq"]) == 1
    shown = capsys.readouterr()
    heading, first, second = shown.out.splitlines()
    assert heading.split() == ["mode", "original", "archive", "bits/byte", "time", "MiB", "file"]
    assert (first.split()[0], first.split()[-1]) == ("coded", "c.pq")
    assert (second.split()[0], second.split()[-1]) == ("stored", "s.pq")
    assert "missing: cannot be read" in shown.err


@pytest.mark.usefixtures("folder")
def test_a_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "--dry-run", *TINY, "--json", "a"]) == 0
    fields = json.loads(capsys.readouterr().out)
    config = prequential.load("tiny", overrides={"ngrams.rows_log2": 10, "chunk": 8}).resolve(900)
    assert fields["original_bytes"] == fields["tokens"] == 900
    assert fields["memory_bytes"] == config.memory_bytes()
    assert fields["config"]["streams"] == config.streams
    assert main(["encode", "--dry-run", *TINY, "a"]) == 0
    assert "config.chunk" in capsys.readouterr().out
    assert main(["encode", "--dry-run", "--max-memory", "10M", "a"]) == 2
    assert "the limit of 10.0 MiB" in capsys.readouterr().err
    assert os.listdir() == ["a"]


# Sizes.


@pytest.mark.parametrize(
    ("written", "size"),
    [("512MB", 2**29), ("512MiB", 2**29), ("512m", 2**29), ("8G", 2**33), ("1.5 kB", 1536)],
)
def test_sizes_as_people_write_them(written: str, size: int) -> None:
    assert options.memory(written) == size


@pytest.mark.parametrize("written", ["", "B", "MB", "-1", "inf", "nan", "5X", "1e30", "5 M B"])
def test_what_is_no_size(written: str) -> None:
    with pytest.raises(Exception, match="is not a size such as 512M"):
        options.memory(written)


# compare, salvage, resume.


@pytest.mark.usefixtures("folder")
def test_compare_knows_short_names_and_refuses_others_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["compare", "a", "--presets", "", "--methods", "xz,bz2"]) == 0
    shown = capsys.readouterr()
    assert "xz -9e" in shown.out
    assert "bz2 -9" in shown.out
    assert "decode s: not measured without --decode" in shown.err
    assert main(["compare", "a", "--presets", "fast,none", "--methods", "xz"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert "none: no such preset; there are best, default, fast" in told.err


@pytest.mark.usefixtures("folder")
def test_salvage_of_nothing_says_so(says: Says) -> None:
    assert main(["encode", "-q", *TINY, "a"]) == 0
    Path("a.pq").write_bytes(Path("a.pq").read_bytes()[:150])
    assert main(["decode", "-q", "--salvage", "-o", "b", "a.pq"]) == 1
    assert "; nothing comes before it, none was salvaged" in says()
    assert sorted(os.listdir()) == ["a", "a.pq"]


def test_resuming_with_another_preset_is_told_in_few_words(folder: Path, says: Says) -> None:
    real = Run.frames

    def interrupted(self: Run) -> Any:
        if self.options.checkpoints is not None:
            self.options.checkpoints.interrupt()  # type: ignore[attr-defined]
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "frames", interrupted)
        assert main(["encode", "-q", *TINY, "a"]) == 130
    assert "--resume" in says()
    assert main(["encode", "-q", "--resume", "--preset", "fast", "a"]) == 1
    told = says()
    assert "another run: its config has" in told
    assert re.search(r"another run: its config has .*, among \d+ settings", told)
    assert len(told) < 500 + len(str(folder))


# Signs of life.


def test_lines_of_progress_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(bar.time, "monotonic", lambda: now[0])
    with bar.progress_bar("a", wanted=True, lines=True) as show:
        assert show is not None
        for minute in range(5):
            now[0] = 30.0 * minute
            show(Progress(100 * minute, 1000, 200.0 * minute, now[0]))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0] == "preq: a: 20.0%, 2.00 bits/byte (mean 2.00, 25.0%) 0.0 kB/s 0:04:00 left"


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_dumb_terminal_has_no_bar(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", shown := Terminal())
    monkeypatch.setenv("TERM", term)
    with bar.progress_bar("a", wanted=True) as show:
        assert show is not None
        show(Progress(50, 100, 100.0, 1.0))
    assert shown.getvalue() == ""


def test_bench_tells_what_it_does_and_whether_the_machine_is_busy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prequential.study import bench

    def run(*_: object) -> None:
        _[-1]("round 1 of 8")  # type: ignore[operator]
        raise prequential.ConfigError("enough")

    monkeypatch.setattr(bench, "run", run)
    for load, told in ((2.5, "preq: warning: this machine is busy (load 2.5)"), (0.1, "")):
        monkeypatch.setattr(cli_bench.os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert main(["bench"]) == 2
        err = capsys.readouterr().err
        assert err.startswith(told or "preq: round 1")
        assert "preq: round 1 of 8\n" in err


# Signals, libraries, folders that are gone.

PROGRAM = """
import os, signal, sys, time
for name in ("SIGHUP", "SIGINT"):  # which a background job ignores
    signal.signal(getattr(signal, name), signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
from prequential.cli import main
from prequential.training.run import Run
real = Run._show
def show(self, *done):
    real(self, *done)
    if self.steps_done == 2:
        print("here", flush=True)
        time.sleep(0.3)
Run._show = show
sys.argv[0] = "preq"
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_and_nothing_hidden(
    number: signal.Signals, folder: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(prequential.__file__).parent.parent)}
    command = [sys.executable, "-c", PROGRAM, "encode", *TINY, "-q", "a"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"go on with the same command and --resume" in err
    assert sorted(os.listdir()) == ["a", "a.pq.checkpoint"]


def test_nohup_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    from prequential.cli import checkpoints
    from prequential.study import child

    before = {number: signal.getsignal(number) for number in child.INTERRUPTS}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        checkpoints.interrupt_on_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_ctrl_c_while_modules_are_loaded(folder: Path) -> None:
    """Sent at every stage of the first tenth of a second, from the first line of ours on."""
    program = (
        "import os, signal, sys, threading, time, traceback\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job has none
        "def strike():\n"
        "    time.sleep(float(sys.argv.pop(1)))\n"
        "    os.kill(os.getpid(), 2)\n"
        "def go():\n"
        "    from prequential.cli import main\n"
        "    thread = threading.Thread(target=strike)\n"
        "    thread.start()\n"
        "    code = main(['info', *sys.argv[1:] * 3000])\n"
        "    thread.join()\n"
        "    return code\n"
        "try:\n"
        "    code = go()\n"
        "except KeyboardInterrupt as interrupt:\n"
        "    frames = traceback.extract_tb(interrupt.__traceback__)\n"
        "    code = 1 if any('prequential' in frame.filename for frame in frames) else 99\n"
        "os._exit(code)\n"
    )
    coded("c.pq", config=Config().resolve(5))
    environment = {**os.environ, "PYTHONPATH": str(Path(prequential.__file__).parent.parent)}
    for milliseconds in (0, 5, 20, 60):
        command = [sys.executable, "-c", program, str(milliseconds / 1000), "c.pq"]
        for _ in range(20):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode != 99:  # it came before our first line
                break
        assert done.returncode == 130, done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("preq: interrupted")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["encode", "f"], "interrupted: the file in work was not written"),
        (["score", "f"], "interrupted"),
        (["distance", "f", "f"], "interrupted"),
        (["where", "f"], "interrupted"),
        (["mdl", "f"], "interrupted: finished runs are kept, and the same command goes on"),
        (["learn", "f", "-o", "s"], "interrupted: the file in work was not written"),
    ],
)
def test_ctrl_c_says_what_was_not_written(
    argv: list[str], told: str, folder: Path, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only of what writes a file."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    Path("f").write_bytes(b"abc")
    monkeypatch.setattr("prequential.cli.options.load", interrupt)
    monkeypatch.setattr("prequential.study.mdl.run", interrupt)
    assert main(argv) == 130
    said = says()
    assert said.startswith(f"preq: {told}")
    assert said == "preq: interrupted\n" or told != "interrupted"


@pytest.mark.parametrize(
    "error", [ImportError("libtorch.so: failed to map"), OSError("no shared object libllvm")]
)
def test_a_library_that_cannot_be_loaded(error: Exception, says: Says) -> None:
    def work(_: str) -> None:
        raise error

    assert guard.each(["a"], work) == guard.ERROR
    assert "preq: error: a: a library cannot be loaded (" in says()


def test_a_working_directory_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: Says
) -> None:
    monkeypatch.chdir(tmp_path)
    coded("c.pq", config=Config().resolve(5))
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir("gone")
    (tmp_path / "gone").rmdir()
    assert main(["info", str(tmp_path / "c.pq")]) == 1
    assert says().startswith("preq: error: the working directory is gone")


def test_every_command_has_a_module_and_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in entry.COMMANDS:
        name = command.__name__.rpartition(".")[2]
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        assert f"usage: preq {name}" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_what_proc_holds_is_read_to_its_end() -> None:
    """Files whose size is said to be 0, or more than there is."""
    for name in ("/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"):
        if os.path.exists(name):
            assert main(["encode", "-f", "-q", *TINY, "-o", "p.pq", name]) == 0
            assert main(["decode", "-f", "-q", "-o", "p", "p.pq"]) == 0
            assert Path("p").read_bytes() == Path(name).read_bytes() != b""


def test_configs_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xef\xbb\xbfchunk = 9\n")
    assert prequential.load(path=str(path)).chunk == 9


def test_terminal_note_escapes_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.note("a\x1b\nb\x07")
    assert capsys.readouterr().err == "a\\x1b\nb\\x07\n"


# What cannot be written, and what would destroy something, is said before the work.


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("flags", [["--help"], ["encode", "--help"], ["--version"]])
def test_help_that_cannot_be_written(flags: list[str], unbuffered: str) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "prequential", *flags]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment)
    assert result.returncode == 1
    told = "preq: error: standard output: cannot be written: No space left on device: make room"
    assert result.stderr.decode() == f"{told}\n"


def test_a_table_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.table import Table

    with open("/dev/full", "w", buffering=1, encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(FileError, match="standard output: cannot be written"):
            terminal.show(Table("a"))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["encode", "a", "-o", ""], "-o takes a file's name"),
        (["encode", "a", "a", "--save-weights", "w"], "--save-weights takes a single input"),
        (["encode", "a", "--\33[31m"], r"unrecognized arguments: --\x1b[31m"),
    ],
)
def test_wrong_usage(
    folder: Path, flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["encode", "a", "-o", "none/"], "none/: cannot be written: there is no folder none"),
        (["encode", "a", "-o", "none/b"], "none/b: cannot be written: there is no folder none"),
        (["compare", "a", "--json-file", "none/b"], "none/b: cannot be written"),
    ],
)
def test_outputs_are_refused_before_the_work(
    folder: Path, says: Says, flags: list[str], told: str
) -> None:
    assert main(flags) == 1
    assert says().startswith(f"preq: error: {told}")
    assert os.listdir() == ["a"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["encode", "a", "--set", "chunk=0"], "chunk = 0 is not within"),
        (["encode", "a", "--save-weights", "./a.pq"], "archive and --save-weights have one name"),
        (["encode", "a", "-o", "w", "--save-weights", "w"], "have one name"),
        (["mdl", "a", "--csv", "t", "--json-file", "./t"], "a: two outputs have one name"),
        (["mdl", "a", "--grid", "chunk"], "expected KEY=V1,V2"),
        (["bench", "--set", "none=1"], "unknown key"),
        (["compare", "a", "--presets", "none"], "none: no such preset"),
        (["compare", "a", "--methods", "none"], "none: not installed here"),
    ],
)
def test_settings_that_cannot_be_used(
    folder: Path, says: Says, flags: list[str], told: str
) -> None:
    assert main(flags) == 2
    assert told in says()
    assert os.listdir() == ["a"]


def test_json_has_names_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "\xe9\u65e5\33[31m\n.txt"
    Path(name).write_bytes(DATA)
    assert main(["mdl", name, "--json", "-q", *TINY]) == 0
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text)["file"] == name


def test_small_limits_are_shown_in_bytes(folder: Path, says: Says) -> None:
    assert main(["encode", "a", *TINY, "--max-memory", "8"]) == 2
    assert "more room than the limit of 8 bytes" in says()


def test_what_there_is_to_import() -> None:
    assert dir(prequential) == sorted(prequential.__all__)
    with pytest.raises(prequential.ConfigError, match="no preset ''"):
        prequential.compress(DATA, config="")
