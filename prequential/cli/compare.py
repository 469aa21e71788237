"""``preq compare``: our presets beside well-known compressors, on the user's own files."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prequential.archive.files import atomic_output, check_target, display
from prequential.cli import terminal
from prequential.errors import FileError, PrequentialError

if TYPE_CHECKING:
    from prequential.study.compare import Row

    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_REFERENCE = "zlib -9"  # of the Weissman score


def add_compare(commands: "_Commands") -> None:
    """The parser of ``preq compare``."""
    text = "run presets and well-known compressors on FILE and show a table"
    parser = commands.add_parser("compare", help=text, description=text + ".")
    parser.set_defaults(action=_compare, output=None)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument(
        "--presets", default="fast,default", metavar="A,B", help="ours to run; fast,default"
    )
    parser.add_argument(
        "--methods", metavar="A,B", help="others to run; all that are installed by default"
    )
    parser.add_argument("--decode", action="store_true", help="decode, check and time that too")
    parser.add_argument("--weissman", action="store_true", help=f"score against {_REFERENCE}")
    parser.add_argument("--json", metavar="OUT", help="write all figures as JSON")
    parser.add_argument("--threads", type=int, metavar="N", help="of our presets")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing OUT")


def _compare(args: argparse.Namespace, source: str) -> None:
    """All files are handled at the first one, for one table and one JSON document."""
    if source != args.files[0]:
        return
    from prequential.study import compare

    here, missing = compare.available()
    others = here if args.methods is None else [m for m in args.methods.split(",") if m]
    if unknown := [name for name in others if name not in here]:
        raise FileError(f"{', '.join(unknown)}: not installed here; there are {', '.join(here)}")
    methods = [f"preq {name}" for name in args.presets.split(",") if name] + others
    if args.weissman and _REFERENCE not in methods:
        methods.append(_REFERENCE)
    paths = [Path(name) for name in args.files]
    for path in paths:
        if not path.is_file():
            raise FileError(f"{display(str(path))}: not a file that can be compared")
    if args.json:
        check_target(args.json, source, force=args.force, binary=False)
    rows: list[Row] = []
    failed: list[str] = []
    for path in paths:
        for method in methods:
            terminal.say(f"{path.name}: {method}")
            try:
                rows += compare.run(path, [method], decode=args.decode, threads=args.threads)
            except PrequentialError as error:  # the others' figures stand
                terminal.say(f"left out: {error}")
                failed.append(str(error))
    _show(rows, args.weissman)
    if args.json:
        with atomic_output(args.json, force=args.force) as output:
            output.file.write(compare.to_json(rows, missing, failed).encode() + b"\n")
    if failed:
        raise PrequentialError(f"{len(failed)} runs failed, see above")


def _show(rows: "list[Row]", scores: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from prequential.study import compare

    references = {row.file: row for row in rows if row.method == _REFERENCE}
    table = Table("file", "method", box=None)
    numbers = ["bytes", "bits/byte", "encode s", "decode s", "peak MB"]
    for name in numbers + (["Weissman"] if scores else []):
        table.add_column(name, justify="right")
    for row in sorted(rows, key=lambda row: (row.file, row.archive_bytes)):
        cells = [
            f"{row.archive_bytes:,}",
            f"{row.bits_per_byte:.3f}",
            f"{row.encode_seconds:.1f}",
            "" if row.decode_seconds is None else f"{row.decode_seconds:.1f}",
            f"{row.encode_peak_bytes / 1e6:.0f}",
        ]
        if scores:
            reference = references.get(row.file)
            cells.append(f"{compare.weissman(row, reference):.2f}" if reference else "")
        table.add_row(Text(display(row.file)), row.method, *cells)
    terminal.show(table)
