"""A run's state on disk, so that hours of work outlive the process.

A checkpoint is one safetensors file beside the output: everything that the rest of the run depends
on, taken between two chunks, with a manifest in the file's metadata that says which run it is of.
It takes its name when it is complete, so there is always a whole one. A resumed run writes the same
bytes as one that was never interrupted.
"""

from __future__ import annotations

import io
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from safetensors import SafetensorError, safe_open

from prequential._version import __version__
from prequential.archive.container import CONTAINER_VERSION, ArchiveReader, Header
from prequential.archive.files import atomic_output, display, remove_leftover
from prequential.config import Config, leaves
from prequential.errors import ArchiveError, ConfigError, FileError

if TYPE_CHECKING:  # not loaded here, so that bad input is refused at once
    import torch

    from prequential.training.alone import Alone
    from prequential.training.learner import Learner
    from prequential.training.run import Run

    _View = np.ndarray | torch.Tensor

LAYOUT = 8  # raised when the tensors or their names change
SHARE = 0.02  # of the run's time that checkpoints may take
_FIRST_BYTES_PER_SECOND = 1e8  # assumed of the disk before anything was written
# What is kept of a run beside what its learner has learned: numbers and arrays, by attribute.
_LEARNER = ("_past_count", "steps")
_OPTIMIZER = ("steps", "_power1", "_power2")
_RECURRENCE = ("steps", "_power")
_CODERS = {
    "Encoder": ("loss_bits", "_buffer", "_intervals", "_sizes"),
    "Decoder": ("loss_bits", "_payload", "_ends", "_intervals", "_positions"),
    "Meter": ("loss_bits",),
}


class Checkpoints:
    """Keeps the state of one run in the file `path`: see `run.Checkpoints`.

    A checkpoint is written when `seconds` have passed since the last one, or more where writing
    would take over `share` of the time, and when `interrupt` was called; the run then ends with
    KeyboardInterrupt. A checkpoint that cannot be written is reported by `warn`; the run goes on.
    """

    def __init__(
        self,
        path: str,
        command: str,
        *,
        seconds: float,
        resume: bool,
        warn: Callable[[str], None],
        share: float = SHARE,
    ) -> None:
        self.path, self.command = path, command
        self.seconds, self.resume, self.share, self.warn = seconds, resume, share, warn
        self.cost = 0.0  # seconds that the last checkpoint took
        self.written = 0
        self._interrupted = False
        self._told = ""
        self._due = 0.0

    def begin(self, run: Run) -> None:
        """Put the kept state back if the run is to be resumed; the output is locked by now.

        Raises:
            FileError: the checkpoint cannot be read, is damaged, or is of another run.
        """
        remove_leftover(self.path)
        if self.resume:
            if os.path.lexists(self.path):
                restore(self.path, run, _identity(self.command, run.header))
            else:
                self.warn(f"{display(self.path)}: no checkpoint yet, starting at the beginning")
        size = sum(a.nbytes for a in _state(run.learner).values())
        self._wait(size / _FIRST_BYTES_PER_SECOND)

    def interrupt(self) -> None:
        """Stop the run after this chunk, with a checkpoint."""
        self._interrupted = True

    def chunk_done(self, run: Run) -> None:
        """Write a checkpoint when it is time to.

        Raises:
            KeyboardInterrupt: `interrupt` was called; the message says how to go on.
        """
        if not self._interrupted and time.monotonic() < self._due:
            return
        kept = self._write(run)
        if self._interrupted:
            share = run.steps_done / run.steps
            told = f"the state is in {display(self.path)}: go on with the same command and --resume"
            raise KeyboardInterrupt(
                f"interrupted at {share:.1%}; {told if kept else 'no checkpoint was written'}"
            )

    def remove(self) -> None:
        """The output is complete: the checkpoint has served."""
        if os.path.lexists(self.path):
            os.unlink(self.path)

    def _write(self, run: Run) -> bool:
        started = time.monotonic()
        try:
            with atomic_output(self.path, force=True, mode=0o600) as output:
                save(output.file, run, _identity(self.command, run.header))
            self.written += 1
        except (OSError, FileError) as error:
            told = f"{display(self.path)}: no checkpoint written ({error}); the run goes on"
            if told != self._told:  # once for each reason
                self.warn(told)
            self._told = told
            return False
        finally:
            self.cost = time.monotonic() - started
            self._wait(self.cost)
        return True

    def _wait(self, cost: float) -> None:
        self._due = time.monotonic() + max(self.seconds, cost / self.share)


def save(file: BinaryIO, run: Run, identity: Mapping[str, Any]) -> None:
    """Write the state of a run, between two chunks, to an empty file."""
    arrays = {name: _on_host(view) for name, view in _state(run.learner).items()}
    for name, (part, names) in _parts(run).items():
        arrays |= {f"{name}.{key}": array for key, array in _arrays(part, names).items()}
    arrays |= {f"output.{i:04}": part for i, part in enumerate(_output(run))}
    manifest = {
        **identity,
        "steps_done": run.steps_done,
        "frames_done": run.frames_done,
        "seconds": time.monotonic() - run.started,
        "draws": _draws(run),
        **{name: _numbers(part, names) for name, (part, names) in _parts(run).items()},
    }
    write(file, arrays, manifest)


def restore(path: str, run: Run, identity: Mapping[str, Any]) -> None:
    """Put a new run where `save` found its like.

    Raises:
        FileError: the checkpoint cannot be read, is damaged, or is of another run.
    """
    remedy = "start at the beginning with -f instead of --resume"
    with reading(path, "checkpoint", remedy):
        with safe_open(path, "np") as file:
            manifest = manifest_of(file)
            if differs := difference(manifest, identity):
                raise FileError(
                    f"{display(path)}: is the checkpoint of another run: its {differs}:"
                    f" give what it was made with, or {remedy}"
                )
            found = fill(file, _state(run.learner))
        _go_on(run, manifest, found)


@contextmanager
def reading(path: str, what: str, remedy: str) -> Iterator[None]:
    """Have all that is wrong with a file of tensors be a FileError."""
    try:
        os.stat(path)  # whose errors say more than those of safetensors
        yield
    except OSError as error:
        raise FileError(f"{display(path)}: cannot be read: {error.strerror or error}") from error
    except (
        SafetensorError,
        ArchiveError,
        ConfigError,
        LookupError,
        TypeError,
        ValueError,
        RecursionError,  # of a manifest nested too deeply
    ) as error:
        raise FileError(f"{display(path)}: the {what} is damaged ({error}): {remedy}") from error


def manifest_of(file: Any) -> dict[str, Any]:
    """What an open file of tensors says it is of. Raises LookupError or ValueError if nothing."""
    manifest = json.loads((file.metadata() or {})["manifest"])
    if not isinstance(manifest, dict):
        raise ValueError("no manifest")
    return manifest


def fill(file: Any, targets: dict[str, _View]) -> dict[str, np.ndarray]:
    """Fill arrays from those of an open file, by name; what else is in it.

    Raises:
        ValueError: one is missing, or does not fit, or the file's checksum.
    """
    found, sums = dict[str, np.ndarray](), dict[str, int]()
    for name in file.keys():  # noqa: SIM118 (no mapping)
        array = file.get_tensor(name)
        sums[name] = zlib.crc32(_flat(array))
        if name in targets:
            _fill(name, targets.pop(name), array)
        else:
            found[name] = np.array(array)
    if targets or _checksum(sums, manifest_of(file)) != file.metadata()["crc32"]:
        raise ValueError("incomplete, or changed since it was written")
    return found


def learned(run: Run) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Views of all that a run has learned so far, and the numbers that go with them."""
    arrays = {name: _on_host(view) for name, view in _state(run.learner).items()}
    parts = {name: part for name, part in _parts(run).items() if name != "coder"}
    numbers = {name: _numbers(part, names) for name, (part, names) in parts.items()}
    return arrays, {"draws": _draws(run), **numbers}


def put_back(run: Run, arrays: Any, numbers: Mapping[str, Any]) -> None:
    """Put what a run like this one had `learned` into it; arrays are a mapping or an open file."""
    if isinstance(arrays, Mapping):
        for name, view in _state(run.learner).items():
            _fill(name, view, arrays[name])
    else:
        fill(arrays, _state(run.learner))
    _follow(run, int(numbers["draws"]))
    for name, (part, names) in _parts(run).items():
        for key in _numbers(part, names) if name != "coder" else ():
            setattr(part, key, numbers[name][key])


def _draws(run: Run) -> int:
    """Numbers that a learner of networks has drawn."""
    networks = networks_of(run.learner)
    return networks.draw.count if networks else 0


def networks_of(learner: Learner | Alone) -> Learner | None:
    """The learner, unless its memory is alone."""
    return cast("Learner", learner) if hasattr(learner, "step") else None


def _follow(run: Run, draws: int) -> None:
    """What else follows from arrays that were put back, and from numbers drawn so far."""
    if networks := networks_of(run.learner):
        networks.step.quantise()
        networks.recurrence.quantise()
        networks.draw.skip(draws - networks.draw.count)


def _state(learner: Learner | Alone) -> dict[str, _View]:
    """Views of all that is learned or remembered; the rest is computed anew in every chunk."""
    views: dict[str, _View] = {} if learner.memory is None else {**learner.memory.arrays()}
    networks = networks_of(learner)
    if networks is None:
        return views
    networks.step.settle()
    views |= networks.ngrams.arrays()
    if networks.model and networks.embeddings:
        views |= networks.embeddings.arrays()
        for w in networks.model.weights:
            for part in ("value", "mean", "square"):
                views[f"model.{w.name}.{part}"] = getattr(w, part)
        views |= {f"cache.{i}": cache for i, cache in enumerate(networks.model.caches())}
    views |= networks.history.arrays() | networks.recurrence.arrays()
    views |= networks.cells.waiting()
    return views


def _output(run: Run) -> list[np.ndarray]:
    """The archive so far, or what is decoded of each stream."""
    if run.writer is not None:
        return [np.frombuffer(run.writer.content(), np.uint8)]
    return [run.symbols[part] for part in run.finished()]


def _go_on(run: Run, manifest: Mapping[str, Any], found: Mapping[str, np.ndarray]) -> None:
    """Everything of a run but its learner's arrays."""
    run.steps_done, run.frames_done = int(manifest["steps_done"]), int(manifest["frames_done"])
    run.started -= float(manifest["seconds"])
    _follow(run, int(manifest["draws"]))
    for name, (part, names) in _parts(run).items():
        for key in _numbers(part, names):
            setattr(part, key, manifest[name][key])
        for key in _arrays(part, names):
            setattr(part, key, found[f"{name}.{key}"])
    if run.writer is not None:
        reader = ArchiveReader(io.BytesIO(found["output.0000"].tobytes()), "archive so far")
        for _ in range(run.frames_done):
            run.writer.data(*reader.data())
    else:
        for i, done in enumerate(run.finished()):
            run.symbols[done][:] = found[f"output.{i:04}"]


def _identity(command: str, header: Header) -> dict[str, Any]:
    """What must agree between the run that wrote a checkpoint and the one that resumes."""
    return {
        "layout": LAYOUT,
        "command": command,
        "version": f"{__version__}/{CONTAINER_VERSION}/{header.numerics_version}",
        "input": header.sha256.hex(),
        "original_bytes": header.original_bytes,
        "seed": header.seed,
        "config": header.config.to_bytes().hex() if header.config else "",
        "prior": header.prior.sha256.hex() if header.prior else "none",
        "given": " ".join(file.sha256.hex() for file in header.given),
        "vocabulary": zlib.crc32(header.tokens.vocabulary) if header.tokens else 0,
    }


def difference(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In what the run that was kept differs from the one that is wanted; empty if in nothing."""
    for key, value in wanted.items():
        if kept[key] == value:
            continue
        if key == "config":
            found = _differences(kept[key], value)
            more = f", among {len(found)} settings" if len(found) > 3 else ""
            return f"config has {', '.join(found[:3])}{more}"
        return f"{key} is {ascii(kept[key])[:80]}, this run's is {ascii(value)[:80]}"
    return ""


def _differences(kept: str, wanted: str) -> list[str]:
    """Settings in which two packed configs differ, with the first one's values."""
    ours, theirs = (dict(leaves(Config.from_bytes(bytes.fromhex(c)))) for c in (kept, wanted))
    return [
        f"{key} = {value}, not {theirs[key]}" for key, value in ours.items() if theirs[key] != value
    ]


def _parts(run: Run) -> dict[str, tuple[object, tuple[str, ...]]]:
    """By name, whatever of a run keeps numbers or arrays from chunk to chunk, and which."""
    coder = run.coder, _CODERS[type(run.coder).__name__]
    networks = networks_of(run.learner)
    if networks is None:
        return {"coder": coder}
    parts: dict[str, tuple[object, tuple[str, ...]]] = {
        "learner": (networks, _LEARNER),
        "recurrence": (networks.recurrence, _RECURRENCE),
        "coder": coder,
    }
    if networks.model:
        parts["optimizer"] = networks.step.optimizer, _OPTIMIZER
    return parts


def _numbers(part: object, names: tuple[str, ...]) -> dict[str, int | float]:
    return {
        name: value for name in names if not isinstance(value := getattr(part, name), np.ndarray)
    }


def _arrays(part: object, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {name: value for name in names if isinstance(value := getattr(part, name), np.ndarray)}


def _on_host(view: _View) -> np.ndarray:
    return view if isinstance(view, np.ndarray) else view.cpu().numpy()


def _fill(name: str, target: _View, array: np.ndarray) -> None:
    if tuple(target.shape) != array.shape:
        raise ValueError(f"{name} has shape {array.shape}")
    if isinstance(target, np.ndarray):
        target[...] = array
    else:
        target.copy_(target.new_tensor(array))


def _flat(array: np.ndarray) -> memoryview:
    """The array's bytes, in order, without a copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """The safetensors format, streamed: its library would hold a copy of everything."""
    entries: dict[str, Any] = {"__metadata__": {"manifest": json.dumps(manifest), "crc32": "0" * 8}}
    end = 0
    # Large items first keeps each aligned to its own size.
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    for name in order:
        array = arrays[name]
        start, end = end, end + array.nbytes
        dtype = array.dtype.kind.upper() + str(8 * array.itemsize)
        entries[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, end]}

    def header() -> bytes:
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    file.write(header())
    sums = {}
    for name in order:
        flat = _flat(arrays[name])
        sums[name] = zlib.crc32(flat)
        file.write(flat)
    entries["__metadata__"]["crc32"] = _checksum(sums, json.loads(json.dumps(manifest)))
    file.seek(0)
    file.write(header())


def _checksum(sums: Mapping[str, int], manifest: Mapping[str, Any]) -> str:
    """Over all tensors and the manifest, 8 hexadecimal digits."""
    return f"{zlib.crc32(json.dumps([sums, manifest], sort_keys=True).encode()):08x}"
