"""``preq doctor``: the platform, and whether its arithmetic does what it must."""

from __future__ import annotations

import argparse
import os
import platform
import re
from typing import Any

from prequential.cli import guard, terminal
from prequential.cli import options as flags
from prequential.errors import PlatformError


def add(commands: flags.Commands) -> None:
    """The parser of ``preq doctor``."""
    text = "check what this platform's arithmetic must do"
    parser = flags.add_command(commands, "doctor", text, _run)
    flags.add_json(parser)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")


def _run(args: argparse.Namespace) -> int:
    return guard.once("doctor", lambda: _doctor(args.device, args.json))


def _doctor(device: str, as_json: bool) -> None:
    from prequential.exact import selftest

    named = fingerprint()
    results = selftest.run(device)
    failed = [fact.name for fact, ok in results if not ok]
    if as_json:
        facts = [
            {"name": fact.name, "claim": fact.claim, "ok": ok, "usual_cause": fact.cause}
            for fact, ok in results
        ]
        terminal.out_json({"ok": not failed, "platform": named, "facts": facts})
    else:
        terminal.pairs(list(named.items()))
        terminal.out("")
        terminal.pairs([("ok" if ok else "failed", fact.claim) for fact, ok in results])
    if failed:
        causes = {fact.cause: None for fact, ok in results if not ok}  # in order, each once
        raise PlatformError(f"failed: {', '.join(failed)}; usual causes: {'; '.join(causes)}")


def fingerprint() -> dict[str, str]:
    """What the bits could depend on and must not: machine, releases, threads, libraries."""
    import numba
    import numpy as np
    import torch

    from prequential.exact import tile

    compiler: Any = numba.config
    blas = [
        line.strip(" -") for line in torch.__config__.show().splitlines() if "BLAS_INFO" in line
    ]
    chips = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "numba": numba.__version__ + (" (compiler off)" if compiler.DISABLE_JIT else ""),
        "products": f"in tiles of {tile.ROWS} x {tile.columns()}",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()}",
        "blas": re.sub(r".*BLAS_INFO=(\w+).*", r"\1", blas[0]) if blas else "unknown",
        "cuda": ", ".join(chips) or "none",
    }


def _processor() -> str:
    """The first processor's name, where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        named = []
    return named[0] if named else platform.processor() or "unknown"
