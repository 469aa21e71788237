"""Everything that decides an archive's bits besides the data and the seed.

A `Config` is a tree of frozen dataclasses. It is read from TOML (`configs/*.toml` are the presets),
changed with `section.key=value`, and written into the archive's header by `to_bytes`, as what
differs from the defaults below: to change one of these is to change the format. Unknown keys, wrong
types and values out of range are errors.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from prequential.errors import ConfigError

if TYPE_CHECKING:
    from prequential.grids import Grid

DEFAULT_PRESET = "default"

# The largest magnitude of a quantised operand: 7 bits and a sign, so that it also fits an int8.
OPERAND_MAX = 127
# A product of two operands, summed this often, stays below 2^24 and is exact in float32.
MAX_TERMS = (1 << 24) // (OPERAND_MAX * OPERAND_MAX)  # 1040

# No weight grows beyond it.
WEIGHT_BOUND = 8.0

# How far back a context may reach: bytes, words (the current one and three before it), tokens.
HISTORY_BYTES = 32
HISTORY_WORDS = 4
HISTORY_TOKENS = 4
# Each kind of context by its letter, in the order of its number in `contexts`, and its sizes.
_CONTEXT_SIZES = {
    "o": (0, HISTORY_BYTES),
    "w": (0, HISTORY_WORDS - 1),
    "s": (2, HISTORY_BYTES),
    "v": (2, HISTORY_WORDS - 1),
    "i": (0, HISTORY_WORDS - 1),
    "c": (0, HISTORY_BYTES),
    "r": (0, HISTORY_BYTES),
    "d": (1, HISTORY_BYTES // 2),
    "t": (1, HISTORY_TOKENS),
    "a": (1, 8),
    "e": (0, HISTORY_WORDS - 1),
    "g": (1, 8),
    "h": (0, HISTORY_WORDS - 1),
    "k": (0, HISTORY_WORDS - 1),
    "n": (0, HISTORY_WORDS - 1),
    "p": (1, 3),
    "q": (0, HISTORY_WORDS - 1),
    "u": (0, HISTORY_BYTES),
    "f": (1, 8),
}
_CONTEXT_KINDS = {letter: number for number, letter in enumerate(_CONTEXT_SIZES)}


# Contexts of the memory that no list names: its matches, and what followed before; and more of
# both where bytes are no numbers.
OWN_CONTEXTS = 4
MORE_CONTEXTS = 4
# Of the memory's tables, for each bucket: itself, and eight entries.
_BUCKET_BYTES = 64 + 8 * 4

USUAL_RATE = 20  # of the memory's mixer

BYTES = "bytes"  # the tokenizer that leaves everything as it is
AUTO = "auto"  # the one that `tokenizer.choose` finds for the input
SYMBOLS = 256  # tokens that it knows


class Range(NamedTuple):
    """The values a field may take, both ends included."""

    low: float
    high: float


def _bounded(default: Any, low: float, high: float) -> Any:
    return field(default=default, metadata={"range": Range(low, high)})


@dataclass(frozen=True)
class ModelConfig:
    """The transformer: `layers` blocks of attention and MLP on rows of `width` numbers.

    With no layers there is none, and nothing else here counts.
    """

    width: int = _bounded(16, 16, 1024)
    layers: int = _bounded(0, 0, 64)
    heads: int = _bounded(1, 1, 64)
    hidden: int = _bounded(16, 16, 1040)
    # Positions before the chunk that attention still sees.
    window: int = _bounded(0, 0, 508)
    # Taps of the causal convolution over the input embeddings; 1 means none.
    conv: int = _bounded(1, 1, 16)
    # Hashed contexts whose embeddings are summed at the input, see `contexts.py`.
    inputs: tuple[str, ...] = ()
    input_rows_log2: int = _bounded(14, 8, 22)
    input_rate: float = _bounded(0.02, 0.0, 10.0)


@dataclass(frozen=True)
class NgramConfig:
    """Hashed n-gram logits: rows of `slots` (symbol, logit) pairs, joined by learned gates."""

    contexts: tuple[str, ...] = ("o1", "o2", "o3", "o4", "o5", "o6", "o8", "w0", "w1")
    slots: int = _bounded(16, 1, 64)
    # Rows of each table; 0 follows the input's length.
    rows_log2: int = _bounded(0, 0, 24)
    rate: float = _bounded(0.7, 0.0, 10.0)
    gate_rate: float = _bounded(0.03, 0.0, 10.0)
    # Where a context has been followed by one token only, so often, it is known for sure what
    # comes, and the recurrent network rests; 0: it never does.
    sure: int = _bounded(32, 0, 65535)


@dataclass(frozen=True)
class MemoryConfig:
    """Counts of the past, mixed after every bit; `kind = "none"` leaves the literal scheme."""

    kind: str = field(default="mix", metadata={"choices": ("none", "mix")})
    # 1: nothing else predicts, no network and no n-grams.
    alone: int = _bounded(0, 0, 1)
    contexts: tuple[str, ...] = (
        "o2", "o3", "o4", "o5", "w0", "w1", "s3", "c0", "r0", "v2", "i0", "d2",
        "a5", "e0", "f6", "g4", "g8", "h0", "k0", "n0", "q0", "p3", "u1", "d3",
        "w2", "o6", "s4", "v3", "e1", "w3", "o7", "s5",
    )  # fmt: skip
    # Buckets in the table of all contexts, 96 bytes each with their entries, and bytes of each
    # stream that a match can reach; 0 follows the input's length.
    buckets: int = _bounded(0, 0, 1 << 28)
    window_log2: int = _bounded(0, 0, 28)
    # A count stops here, so that old evidence fades.
    count_limit: int = _bounded(63, 1, 63)
    # A weight moves by so many 2^-14 * input in nats * error, several times more at first. 0, to an
    # encoder: `content` finds it for the input, unless something is given.
    mixer_rate: int = _bounded(USUAL_RATE, 0, 256)
    # A byte is coded as one decision, without contexts, where less than one in 2^certain of its
    # like came otherwise; 0: none is.
    certain: int = _bounded(13, 0, 22)


@dataclass(frozen=True)
class OptimizerConfig:
    """One step per chunk on the transformer's weights."""

    name: str = field(default="adam", metadata={"choices": ("adam", "sgd")})
    rate: float = _bounded(0.0003, 0.0, 100.0)
    beta1: float = _bounded(0.9, 0.0, 0.9999)
    beta2: float = _bounded(0.999, 0.0, 0.999999)
    epsilon: float = _bounded(1e-6, 1e-12, 1.0)
    warmup: int = _bounded(100, 0, 1_000_000)
    # At most so many groups of streams have scales of their own in the weights' gradients.
    groups: int = _bounded(16, 1, 16)


@dataclass(frozen=True)
class RecurrenceConfig:
    """The recurrent network: `layers` of `cells` LSTM cells each; none is no network."""

    layers: int = _bounded(1, 0, 8)
    cells: int = _bounded(128, 16, 1024)
    # Hashed contexts that speak to the cells, as the last token does.
    inputs: tuple[str, ...] = ("w0", "o2", "f6", "q0")
    # More of them, which speak when the network has rested and so missed what came.
    missed: tuple[str, ...] = ("o5",)
    input_rows_log2: int = _bounded(13, 8, 22)
    # Of what connects cells, of what leads to the logits, and of what tokens and contexts say.
    rate: float = _bounded(0.002, 0.0, 10.0)
    head_rate: float = _bounded(0.007, 0.0, 10.0)
    input_rate: float = _bounded(0.1, 0.0, 10.0)
    # It takes a step when as many tokens have entered that were not known for sure.
    least: int = _bounded(16, 1, 1024)


@dataclass(frozen=True)
class MixerConfig:
    """How the memory's mixer learns."""

    # Its weights learn by the curvature of the codelength, too, which is reckoned anew every
    # 2^curvature_log2 bits; 0: by the gradient alone.
    curvature_log2: int = _bounded(0, 0, 20)


@dataclass(frozen=True)
class Config:
    """What the decoder must know, but for the data's length and the seed."""

    # Streams side by side; 0 follows the input's length, one for every `stream_bytes`.
    streams: int = _bounded(0, 0, 4096)
    stream_bytes: int = _bounded(1 << 24, 1, 1 << 40)
    # Tokens of each stream in a chunk, that is, per optimizer step.
    chunk: int = _bounded(32, 1, 1024)
    # Optimizer steps per chunk: one on the chunk itself, the others on replayed past chunks.
    epochs: int = _bounded(1, 1, 64)
    # What a token is: a byte, or a piece of a vocabulary, see `tokenizer`.
    tokenizer: str = BYTES
    model: ModelConfig = field(default_factory=ModelConfig)
    ngrams: NgramConfig = field(default_factory=NgramConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    recurrence: RecurrenceConfig = field(default_factory=RecurrenceConfig)
    mixer: MixerConfig = field(default_factory=MixerConfig)
    # Parts of a payload that threads code side by side, each for its share of the streams; the
    # memory's tables learn once a chunk then. 0: one part, and every bit is learned at once.
    lanes: int = _bounded(0, 0, 64)
    # Where pictures and sound are, see `grids`; "auto": where `finding` finds some.
    numbers: str = ""

    def resolve(
        self, byte_count: int, token_count: int | None = None, given_bytes: int = 0
    ) -> Config:
        """The same config with every size that follows the input's length filled in.

        token_count is less than byte_count where tokens are longer. Tables have room for what is
        given first as well, and for as much again or the input, so that for all that is no longer
        than the given they are the same. Streams are of the input alone.

        Streams: the largest power of two, up to 8, that leaves each at least `stream_bytes`.
        Table rows: the power of two that is at least a quarter of the length, 2^10 to 2^19, or to
        2^18 beside a memory, which has six buckets for every byte, 2 to 16 * 2^20, and from 16 MiB
        to 24 MiB on one for every byte. Where that is more than there may be, `fitting`.

        >>> Config().resolve(40_000_000).streams, Config().resolve(1_000_000).ngrams.rows_log2
        (2, 18)

        Raises:
            ConfigError: numbers are said to be where the input has no bytes.
        """
        size = byte_count + given_bytes
        if any(grid.end > size for grid in parse_grids(self.numbers)):
            raise ConfigError(f"numbers = {self.numbers!r}: beyond the {size} bytes there are")
        size = max(size, 2 * given_bytes)
        enough = max(1, byte_count // self.stream_bytes)
        streams = self.streams or min(8, 1 << (enough.bit_length() - 1))
        streams = max(1, min(streams, byte_count if token_count is None else token_count))
        most = 19 if self.memory.kind == "none" else 18
        rows_log2 = self.ngrams.rows_log2 or min(most, max(10, (size // 4).bit_length()))
        ngrams = dataclasses.replace(self.ngrams, rows_log2=rows_log2)
        memory = self.memory
        if memory.kind != "none":
            reach_log2 = min(24, max(10, (size // streams).bit_length()))
            memory = dataclasses.replace(
                memory,
                mixer_rate=memory.mixer_rate or USUAL_RATE,
                buckets=memory.buckets or _buckets(size),
                window_log2=memory.window_log2 or reach_log2,
            )
        return dataclasses.replace(self, streams=streams, ngrams=ngrams, memory=memory)

    @property
    def payload_lanes(self) -> int:
        """How many parts a payload of this resolved config has."""
        return max(1, min(self.lanes, self.streams))

    @property
    def has_transformer(self) -> bool:
        """Whether there is one: layers, beside more than a memory alone."""
        return self.model.layers > 0 and not self.memory.alone

    @property
    def floats(self) -> bool:
        """Whether floats reach the bits: those of networks, of numbers or of a curvature."""
        alone = self.memory.alone
        return not alone or self.numbers != "" or self.mixer.curvature_log2 > 0

    def following(self, byte_count: int, token_count: int, given_bytes: int = 0) -> Config:
        """The inverse of `resolve`: a size is 0 where the input's length gives the same.

        >>> config = Config(chunk=7)
        >>> config.resolve(5000).following(5000, 5000) == config
        True
        """
        found = self
        for path in ("streams", "ngrams.rows_log2", "memory.buckets", "memory.window_log2"):
            tree = dataclasses.asdict(found)
            _set(tree, path, 0)
            shorter = from_tree(tree)
            if shorter.resolve(byte_count, token_count, given_bytes) == self:
                found = shorter
        return found

    def fitting(self, room_bytes: int, vocabulary: int = SYMBOLS) -> Config:
        """A resolved config with as many buckets as there is room for, from 8 * 2^20 on."""
        over = self.memory_bytes(vocabulary) - room_bytes
        if over <= 0 or self.memory.kind == "none":
            return self
        fewer = max(8 << 20, self.memory.buckets - -(-over // _BUCKET_BYTES))
        buckets = min(fewer, self.memory.buckets)
        return dataclasses.replace(self, memory=dataclasses.replace(self.memory, buckets=buckets))

    def memory_bytes(self, vocabulary: int = SYMBOLS) -> int:
        """What a learner of this resolved config allocates, rather too much than too little.

        vocabulary counts the pieces that a token may be.
        """
        m, n, V = self.model, self.ngrams, vocabulary
        B, tokens = self.streams, self.streams * self.chunk
        embeddings = self.has_transformer * (V + (len(m.inputs) << m.input_rows_log2)) * m.width * 8
        rows = len(n.contexts) << n.rows_log2
        contexts, memory = len(m.inputs) + 3 * len(n.contexts), 0
        if self.memory.kind != "none":
            longer = V > SYMBOLS  # than a byte: tables of where tokens end
            memory = (_BUCKET_BYTES + 2 * longer) * self.memory.buckets
            memory += B * (1 + longer) << self.memory.window_log2
            memory += (80 << min(19, self.memory.window_log2)) + (1 << 24)
            count = len(self.memory.contexts) + OWN_CONTEXTS + MORE_CONTEXTS
            contexts += count
            inputs, L = 4 * count + 24, self.payload_lanes
            curvature = 32 * inputs * inputs * min(1, self.mixer.curvature_log2)
            memory += (48_000 * inputs + (10 << 20) + curvature) * L  # what lanes mix by
            notes = 2 * tokens * (10 * count + 80) + 8 * L * B
            memory += notes * min(1, self.lanes)
            grids = parse_grids(self.numbers)
            memory += max((grid.memory_bytes(B) + (1 << 25) for grid in grids), default=0)
        outputs = tokens * (32 * V + 8 * contexts)
        tables = rows * (5 + (9 + (V > SYMBOLS)) * n.slots)
        r = self.recurrence
        cells = r.layers * r.cells
        contexts_of_cells = len(r.inputs) + len(r.missed)
        said = (V + (contexts_of_cells << r.input_rows_log2)) * 48  # 6 numbers and their squares
        entered = tokens + r.least  # at most, before it learns
        recurrence = cells * (said + 10 * V + 60 * r.cells + 120 * entered)
        outputs += 4 * (tokens + entered) * V
        networks = embeddings + tables + outputs + recurrence + self.device_bytes(V)
        return memory + 43_000 * B + (0 if self.memory.alone else networks)

    def device_bytes(self, vocabulary: int = SYMBOLS) -> int:
        """As much of `memory_bytes` as is the transformer's, which may lie on a GPU."""
        if not self.has_transformer:
            return 0
        m, V, B = self.model, vocabulary, self.streams
        weights = (m.layers * (4 * m.width + 2 * m.hidden) + V) * m.width * 24
        largest = 48 * m.width * max(3 * m.width, m.hidden, V)  # of one matrix, while it is made
        scores = B * m.heads * self.chunk * (m.window + self.chunk)
        attention = scores * (4 * m.layers + 40 * min(1, m.layers))
        activations = B * self.chunk * (m.layers + 1) * (80 * m.width + 32 * m.hidden)
        window = 8 * (m.layers + 1) * B * (m.window + m.conv) * m.width * (1 + (self.epochs > 1))
        return weights + largest + attention + activations + window

    def seconds_per_token(self, vocabulary: int = SYMBOLS, bytes_per_token: float = 1.0) -> float:
        """About how long a decoder of this resolved config takes for a token, on two cores."""
        m, n, V = self.model, self.ngrams, vocabulary
        tokens = self.streams * self.chunk
        there = self.has_transformer
        matrices = m.layers * (4 * m.width + 2 * m.hidden) * m.width + there * V * m.width
        keys = m.layers * (m.window + self.chunk) * (m.width + 16 * m.heads)
        # Of one step: calls a chunk, the update of every weight, products and scores a token.
        calls = 2e-4 * (1 + m.layers)
        step = (calls + 7e-10 * matrices) / tokens
        step += 1.7e-10 * matrices + 1e-9 * keys
        step += there * 3e-9 * m.width * (len(m.inputs) + m.conv)
        # A replay reads as many chunks again, forward only, and takes a step.
        reach = 1 + max(m.window, HISTORY_BYTES) // self.chunk
        replays = (self.epochs - 1) * (1 + 0.4 * reach)
        columns = 2e-5 * (1 + m.layers) / self.streams
        r = self.recurrence
        weights = r.layers * r.cells * (6 * r.cells + V)
        step += 2e-10 * weights + 1e-9 * weights / tokens + 3e-8 * r.layers * r.cells
        tables = 2e-6 + 8e-9 * V + len(n.contexts) * (0.6e-6 + 20e-9 * n.slots)
        memory = 0.0
        if self.memory.kind != "none":
            memory = bytes_per_token * (12e-6 + 2e-6 * len(self.memory.contexts))
            memory *= 1 + min(1, self.mixer.curvature_log2)
        if self.memory.alone:
            return memory
        return step + columns + tables + memory + replays * (step + tables)

    def to_bytes(self) -> bytes:
        """Which settings differ from the defaults, a bit each, then these: see docs/FORMAT.md.

        Where numbers are stands behind them. Nothing at all, if nothing differs.
        """
        *values, numbers = [value for _, value in leaves(self)]
        defaults = [value for _, value in leaves(Config())]
        differ = [value != default for value, default in zip(values, defaults, strict=False)]
        mask = 0
        for i, other in enumerate(differ):
            mask |= other << i
        sent = [_pack(value) for value, other in zip(values, differ, strict=True) if other]
        sent.append(str(numbers).encode())
        if not mask and not numbers:
            return b""
        return mask.to_bytes(_mask_bytes(len(values)), "little") + b"".join(sent)

    @classmethod
    def from_bytes(cls, packed: bytes) -> Config:
        """The inverse of `to_bytes`.

        Raises:
            ConfigError: not the canonical bytes of a valid config.
        """
        defaults = dict(leaves(Config()))
        reader = _Reader(packed, list(defaults)[:-1])

        def read(name: str, hint: Any) -> Any:
            return reader.rest() if name == "numbers" else reader.read(name, hint, defaults[name])

        config: Config = _build(cls, "", read)
        if config.to_bytes() != packed:
            raise ConfigError("config: says what need not be said")
        if AUTO in (config.tokenizer, config.numbers) or not config.memory.mixer_rate:
            raise ConfigError("config: leaves the encoder's choices open")
        return config


def preset_names() -> list[str]:
    """Names that `load` accepts as a preset."""
    folder = resources.files("prequential.configs")
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml"))


def load(
    preset: str | None = None,
    path: str | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> Config:
    """A preset or a TOML file, changed by overrides: `["model.width=64"]`, `{"model.width": 64}`.

    Raises:
        ConfigError: an unknown preset or key, a wrong type, a value out of range.
    """
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read as a config ({error})") from error
        source = path
    else:
        source = DEFAULT_PRESET if preset is None else preset
        if source not in preset_names():
            raise ConfigError(f"no preset {source!r}; there are {', '.join(preset_names())}")
        text = (resources.files("prequential.configs") / f"{source}.toml").read_text("utf-8")
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from error
    changes = overrides.items() if isinstance(overrides, Mapping) else map(_parse, overrides)
    for key, value in changes:
        _set(tree, key, value)
    return from_tree(tree, source)


def from_tree(tree: Mapping[str, Any], source: str = "config") -> Config:
    """A config from nested dictionaries, defaults where a key is absent.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range.
    """
    config: Config = _from_tree(Config, tree, source, "")
    return config


_hints = functools.cache(get_type_hints)  # which evaluates their text each time


def _from_tree(cls: Any, tree: Mapping[str, Any], source: str, prefix: str) -> Any:
    known = {f.name for f in fields(cls)}
    for key in tree:
        if key not in known:
            raise ConfigError(
                f"{source}: unknown key {prefix}{key}; known: {', '.join(sorted(known))}"
            )
    values: dict[str, Any] = {}
    for name, hint in _hints(cls).items():
        if name not in tree:
            continue
        value = tree[name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{source}: {prefix}{name} is a section, not a value")
            values[name] = _from_tree(hint, value, source, f"{prefix}{name}.")
        else:
            values[name] = _coerce(value, hint, f"{source}: {prefix}{name}")
    config = cls(**values)
    for f in fields(cls):
        if not dataclasses.is_dataclass(getattr(config, f.name)):
            _check(getattr(config, f.name), f, f"{source}: {prefix}{f.name}")
    _check_together(config, source)
    return config


def _coerce(value: Any, hint: Any, where: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if hint == tuple[str, ...] and isinstance(value, list | tuple):
        if all(isinstance(item, str) for item in value):
            return tuple(value)
    elif type(value) is hint:
        return value
    wanted = "a list of strings" if hint == tuple[str, ...] else f"of type {hint.__name__}"
    raise ConfigError(f"{where} must be {wanted}, not {value!r}")


def _check(value: Any, f: dataclasses.Field[Any], where: str) -> None:
    bounds = f.metadata.get("range")
    if bounds is not None and not bounds.low <= value <= bounds.high:
        raise ConfigError(f"{where} = {value} is not within {bounds.low} .. {bounds.high}")
    choices = f.metadata.get("choices")
    if choices is not None and value not in choices:
        raise ConfigError(f"{where} = {value!r} is none of {', '.join(choices)}")
    if isinstance(value, tuple):
        if len(value) > 64:
            raise ConfigError(f"{where} has {len(value)} contexts; at most 64 are possible")
        for name in value:
            parse_context(name, where)


def _check_together(config: Any, source: str) -> None:
    """Bounds that join several fields: every exact reduction must stay below 2^24."""
    if isinstance(config, ModelConfig) and config.width % config.heads:
        raise ConfigError(
            f"{source}: model.width = {config.width} is not a multiple of"
            f" model.heads = {config.heads}"
        )
    if isinstance(config, MemoryConfig) and config.alone and config.kind == "none":
        raise ConfigError(f"{source}: memory.alone = 1, but memory.kind = 'none': nothing predicts")
    if isinstance(config, Config):
        if config.memory.alone and config.epochs > 1:
            raise ConfigError(f"{source}: epochs = {config.epochs}, but memory.alone = 1: no steps")
        numbers, there = parse_grids(config.numbers), config.memory.kind != "none"
        if numbers and not (there and config.tokenizer in (BYTES, AUTO)):
            raise ConfigError(f"{source}: numbers are for a memory, and tokens that are bytes")
        if config.lanes and (numbers or not there or config.tokenizer != BYTES):
            raise ConfigError(
                f"{source}: lanes are for a memory, tokens that are bytes, and no numbers"
            )
        keys = config.model.window + config.chunk
        if keys > MAX_TERMS:
            raise ConfigError(
                f"{source}: model.window + chunk = {keys} keys; a sum over more than {MAX_TERMS}"
                f" products of {OPERAND_MAX}-bounded operands is not exact in float32"
            )


def parse_context(name: str, where: str = "context") -> tuple[int, int]:
    """(kind, size) of a context's name, see `contexts`.

    >>> parse_context("w1")
    (1, 1)

    Raises:
        ConfigError: not the letter of a kind with a size in range.
    """
    match = re.fullmatch(r"([a-z])(0|[1-9][0-9]?)", name)
    low, high = _CONTEXT_SIZES.get(match[1], (1, 0)) if match else (1, 0)
    if match is None or not low <= int(match[2]) <= high:
        raise ConfigError(f"{where}: {name!r} is not a context such as o4, w1 or s3")
    return _CONTEXT_KINDS[match[1]], int(match[2])


def parse_grids(text: str) -> list[Grid]:
    """What `Config.numbers` says, if it says something; only then the decoder takes more code."""
    found: list[Grid] = []
    if text and text != AUTO:
        found = import_module("prequential.grids").parse(text)
    return found


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"setting {key}: {section} is a value, not a section")
    tree[last] = value


def _parse(override: str) -> tuple[str, Any]:
    """Key and value; anything that is not a TOML value is taken as a bare string."""
    key, found, text = override.partition("=")
    if not found or "\n" in override:
        raise ConfigError(f"setting {override!r}: expected KEY=VALUE, as in model.width=64")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), text.strip()


def _buckets(size: int) -> int:
    """Buckets of the memory for so many bytes, see `Config.resolve`."""
    return max(2 << 20, min(6 * size, max(16 << 20, min(size, 24 << 20))))


# Canonical bytes: integers as LEB128 varints, floats as the length and text of their shortest
# decimal form, strings as length and UTF-8, contexts as one string. A default is always left out.


def _mask_bytes(settings: int) -> int:
    return (settings + 7) // 8


def leaves(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """(name, value) of every setting of a config, in schema order."""
    found: list[tuple[str, Any]] = []
    for f in fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            found += leaves(value, f"{prefix}{f.name}.")
        else:
            found.append((prefix + f.name, value))
    return found


def varint(value: int) -> bytes:
    """LEB128: seven bits a byte, least significant first, high bit on all but the last.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _pack(value: Any) -> bytes:
    r"""One value's bytes.

    >>> _pack(300), _pack(0.5), _pack(("o1", "w0"))
    (b'\xac\x02', b'\x030.5', b'\x04o1w0')
    """
    if isinstance(value, int):
        return varint(value)
    if isinstance(value, tuple):
        value = "".join(value)
    text = (repr(value) if isinstance(value, float) else value).encode()
    return _pack(len(text)) + text


def _build(cls: Any, prefix: str, read: Any) -> Any:
    """A config whose leaves come from `read(name, type)`, in schema order, fully checked."""
    tree: dict[str, Any] = {}
    for name, hint in _hints(cls).items():
        if dataclasses.is_dataclass(hint):
            tree[name] = dataclasses.asdict(_build(hint, f"{prefix}{name}.", read))
        else:
            tree[name] = read(prefix + name, hint)
    return _from_tree(cls, tree, "config", prefix)


def _decoded(raw: bytes, name: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"config: {name} is not UTF-8") from error


class _Reader:
    def __init__(self, packed: bytes, names: list[str]) -> None:
        self.packed = packed or bytes(_mask_bytes(len(names)))
        self.offset = _mask_bytes(len(names))
        mask = int.from_bytes(self.packed[: self.offset], "little")
        if len(self.packed) < self.offset or mask >> len(names):
            raise ConfigError("config: is cut off, or has settings that nobody knows")
        self.sent = {name for i, name in enumerate(names) if mask >> i & 1}

    def read(self, name: str, hint: Any, default: Any) -> Any:
        value = self._value(name, hint) if name in self.sent else default
        if name in self.sent and value == default:
            raise ConfigError(f"config: {name} = {value!r} need not be said")
        return value

    def _value(self, name: str, hint: Any) -> Any:
        if hint is int:
            return self._varint(name)
        if hint == tuple[str, ...]:
            text = self._text(name)
            found = tuple(re.findall("[a-z][0-9]+", text))
            if "".join(found) != text:
                raise ConfigError(f"config: {name} = {text!r} is not a list of contexts")
            return found
        text = self._text(name)
        if hint is not float:
            return text
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if repr(value) != text or value != value:
            raise ConfigError(f"config: {name} = {text!r} is not a number in shortest form")
        return value

    def rest(self) -> str:
        start, self.offset = self.offset, len(self.packed)
        return _decoded(self.packed[start:], "numbers")

    def _text(self, name: str) -> str:
        length = self._length(name)
        raw = self.packed[self.offset : self.offset + length]
        self.offset += length
        return _decoded(raw, name)

    def _length(self, name: str) -> int:
        length = self._varint(name)
        if length > len(self.packed) - self.offset:
            raise ConfigError(f"config: {name} is longer than the config")
        return length

    def _varint(self, name: str) -> int:
        value = shift = 0
        while self.offset < len(self.packed) and shift < 63:
            byte = self.packed[self.offset]
            self.offset += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    break
                return value
            shift += 7
        raise ConfigError(f"config: {name} is cut off or not in shortest form")
