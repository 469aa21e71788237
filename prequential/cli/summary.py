"""What encode, decode and test say of a run when it is over."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from prequential.archive.files import display, display_target
from prequential.cli import terminal
from prequential.cli.options import Options
from prequential.errors import FileError

if TYPE_CHECKING:
    from prequential.report import Report


def show(options: Options, source: str, target: str | None, report: Report) -> None:
    """The report on standard error, and as JSON on standard output if that is wanted.

    Raises:
        FileError: standard output cannot be written; the message says that the target is there.
    """
    if options.json:
        named = {"file": source} | ({} if target is None else {"output": target})
        try:
            terminal.out_json(named | json.loads(report.to_json()))
        except FileError as error:
            done = "" if target is None else f"; {display_target(target)} is complete"
            raise FileError(f"{error}{done}") from error
    if options.quiet or (options.silent and not options.verbose):
        return
    rows = [("input", display(source))]
    if target is not None:
        rows.append(("output", display_target(target)))
    rows += [
        ("original", f"{report.original_bytes:,} bytes"),
        ("archive", f"{report.archive_bytes:,} bytes"),
        ("rate", f"{report.bits_per_byte:.4f} bits/byte"),
        *_given(report),
        *_vocabulary(report),
        ("description", _description(report)),
        ("time", f"{report.seconds:.1f} s, {report.bytes_per_second / 1000:.1f} kB/s"),
    ]
    if options.verbose or options.save_weights:
        rows.append(("final weights", f"{report.weights_bytes:,} bytes, none of them sent"))
    if options.verbose:
        rows += [("sha256", report.sha256), ("weights", report.weights_digest)]
    terminal.pairs(rows, stderr=True)


def of_runnable(report: Report, size: int) -> Report:
    """The report of a self-extracting file: all that is not the archive counts as code."""
    code = size - report.archive_bytes
    total = 8 * (size + report.prior_bytes)
    return dataclasses.replace(report, code_bytes=code, description_length_bits=total)


def _vocabulary(report: Report) -> list[tuple[str, str]]:
    if not report.vocabulary_bytes:
        return []
    return [
        ("tokens", f"{report.tokens:,}, {report.bits_per_token:.3f} bits each"),
        ("vocabulary", f"{report.vocabulary:,} pieces, {report.vocabulary_bytes:,} bytes of it"),
    ]


def _given(report: Report) -> list[tuple[str, str]]:
    if not report.given_bytes:
        return []
    return [("given", f"{report.given_bytes:,} bytes, learned first and not counted")]


def _description(report: Report) -> str:
    """The terms of the description length, in bytes."""
    given = ", given what was learned first" if report.given_bytes else ""
    prior = f" + prior {report.prior_bytes:,}" if report.prior_bytes else ""
    return (
        f"{report.description_length_bits // 8:,} bytes ="
        f" archive {report.archive_bytes:,} + code {report.code_bytes:,}{prior}{given}"
    )
