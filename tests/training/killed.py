"""A warm process that runs `preq` in forks of itself and kills them: see test_checkpoint.

Forks start with every loop compiled, so a run takes a fraction of a second. Prints counts as JSON.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from samples import text

from prequential import codec
from prequential.archive import files
from prequential.cli import entry as cli
from prequential.training import checkpoint

KINDS = {
    "plain": [],
    "memory": ["memory.kind=mix", "streams=1"],
    "replay": ["memory.kind=mix", "epochs=2", "streams=3"],
}
CONFIG = ["ngrams.rows_log2=10", "model.input_rows_log2=8", "model.window=16"]
NEVER = 60.0  # seconds; longer than any run

counts: Counter[str] = Counter()


def command(verb: str, source: str, target: str, kind: str, prior: str | None) -> list[str]:
    argv = [verb, "-q", "--threads", "1", "--resume", "--checkpoint-seconds", "0.02"]
    if verb == "encode":
        argv += ["--preset", "tiny", "--seed", "7"]
        for setting in CONFIG + KINDS[kind]:
            argv += ["--set", setting]
    if prior is not None:
        argv += ["--prior", prior]
    return [*argv, "-o", target, source]


def start(argv: list[str], before: Callable[[], None] = lambda: None) -> int:
    """Fork a child that runs `preq`; its messages go to the file err."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.dup2(os.open("err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.fsync = lambda _: None  # what a killed process wrote, the system keeps
        checkpoint.Checkpoints = functools.partial(  # type: ignore[misc]
            checkpoint.Checkpoints, share=1e9
        )
        before()
        code = cli.main(argv)
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """Exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def told() -> str:
    return Path("err").read_text()


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_writing(share: float) -> Callable[[], None]:
    """Die in a checkpoint, after that share of its bytes."""

    def before() -> None:
        real, state = checkpoint.save, {"left": 2}

        class Torn:
            def __init__(self, file: object) -> None:
                self.file = file

            def __getattr__(self, name: str) -> object:
                return getattr(self.file, name)

            def write(self, piece: bytes) -> None:
                view = memoryview(piece).cast("B")
                self.file.write(view[: int(len(view) * share)])  # type: ignore[attr-defined]
                self.file.flush()  # type: ignore[attr-defined]
                if len(view) > 1000:
                    kill_self()

        def save(file: object, *rest: object) -> None:
            state["left"] -= 1
            real(file if state["left"] else Torn(file), *rest)  # type: ignore[arg-type]

        checkpoint.save = save  # type: ignore[assignment]

    return before


def killed_naming(after: bool) -> Callable[[], None]:
    """Die just before, or just after, the second checkpoint takes its name."""

    def before() -> None:
        real, state = files._give_name, {"left": 2}

        def give_name(*args: object, **options: object) -> None:
            state["left"] -= 1
            if not after and not state["left"]:
                kill_self()
            real(*args, **options)  # type: ignore[arg-type]
            if after and not state["left"]:
                kill_self()

        files._give_name = give_name

    return before


def interrupted(number: int) -> Callable[[], None]:
    """Get a signal while the second checkpoint is written."""

    def before() -> None:
        real, state = checkpoint.save, {"left": 2}

        def save(*args: object) -> None:
            state["left"] -= 1
            real(*args)  # type: ignore[arg-type]
            if not state["left"]:
                os.kill(os.getpid(), number)

        checkpoint.save = save  # type: ignore[assignment]

    return before


def check_run(argv: list[str], target: str, wanted: bytes, kills: int, rng: random.Random) -> None:
    """Kill the run again and again, let it end, compare."""
    began = time.monotonic()
    assert wait(start(argv)) == 0, told()
    seconds = time.monotonic() - began
    os.unlink(target)
    here = 0
    while True:
        child = start(argv)
        delay = rng.uniform(0, seconds / 2) if here < kills else NEVER
        time.sleep(delay if here < kills else 0)
        if here < kills:
            os.kill(child, signal.SIGKILL)
        code = wait(child)
        if code == 0:
            finish(target, wanted)
            if here >= kills:
                return
        else:
            assert code == -signal.SIGKILL, (code, told())
            counts["kills at random moments"] += 1
            here += 1
            if os.path.exists(target):  # the kill came between the output's name and the exit
                assert Path(target).read_bytes() == wanted
                os.unlink(target)


def finish(target: str, wanted: bytes) -> None:
    """A run has ended: the output is right and nothing else is left."""
    counts["runs that ended after kills"] += 1
    if Path(target).read_bytes() != wanted:
        counts["that passed silently"] += 1
    left = [name for name in os.listdir() if ".preq-" in name or name.endswith(".checkpoint")]
    assert not left, left
    os.unlink(target)


def main(folder: str, kills: int) -> None:
    os.chdir(folder)
    for number in (signal.SIGINT, signal.SIGTERM):  # they may be ignored in the background
        signal.signal(number, signal.default_int_handler)
    rng = random.Random(1)
    data = text(4003)
    Path("a").write_bytes(data)
    prior = "weights.safetensors"
    for kind in KINDS:
        # In this process, so that every fork finds the loops compiled.
        argv = command("encode", "a", f"{kind}.pq", kind, None)
        argv.remove("--resume")
        extra = [] if os.path.exists(prior) else ["--save-weights", prior]
        assert cli.main(argv + extra) == 0
        assert cli.main(["decode", "-q", "--threads", "1", "-o", "copy", f"{kind}.pq"]) == 0
        assert Path("copy").read_bytes() == data
        os.unlink("copy")
    codec.FRAME_BYTES = 1500  # several frames, and an archive of its own
    for kind in (*KINDS, "prior"):
        given, base = (prior, "plain") if kind == "prior" else (None, kind)
        argv = command("encode", "a", "out", base, given)
        assert wait(start(argv)) == 0, told()
        archive = Path("out").read_bytes()
        os.unlink("out")
        Path("made.pq").write_bytes(archive)
        back = command("decode", "made.pq", "copy", base, given)
        check_run(argv, "out", archive, kills, rng)
        check_run(back, "copy", data, kills, rng)
        if kind != "replay":
            continue
        for verb, target, wanted in ((argv, "out", archive), (back, "copy", data)):
            verb[verb.index("--checkpoint-seconds") + 1] = "1e-9"  # after every chunk
            for before in (
                *(killed_writing(share) for share in (0.0, 0.5, 0.99, 1.0)),
                killed_naming(False),
                killed_naming(True),
            ):
                assert wait(start(verb, before)) == -signal.SIGKILL, told()
                counts["kills while a checkpoint was written"] += 1
            assert wait(start(verb)) == 0, told()
            assert "no checkpoint yet" not in told()
            finish(target, wanted)
            for number in (signal.SIGINT, signal.SIGTERM):
                assert wait(start(verb, interrupted(number))) == 130, told()
                assert "go on with the same command and --resume" in told()
                counts["interrupts"] += 1
            assert wait(start(verb)) == 0, told()
            finish(target, wanted)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
