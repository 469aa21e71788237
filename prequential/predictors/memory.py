"""The past-only memory: counts of what followed each context, mixed anew after every bit.

A token is coded byte by byte, along the pieces of the vocabulary that begin with what is coded of
it: first whether it goes on, where a piece ends that others begin with, then the next byte's eight
bits, most significant first. What leaves no choice is not coded. In each decision the contexts of
the tables, the matches and the learner's distribution over tokens have their say; the mixer weighs
them. Everything learns from the bit just coded, in coding order, and is shared by all streams, but
for their doubts. Where tokens are bytes, tables and mixer have learned a sample beforehand.

Where the input is pictures or sound, another structure of the same kind has its say instead: with
other contexts and weights, and with what `numbers` expects as further inputs of its mixer. History,
matches and buckets are the same for both.

Only integers reach the bits: probabilities have 16 bits, the last ones 22, tables of logits and
their inverse are made from integers, sums are 64-bit. Source: Mahoney 2005, adaptive weighing of
context models (the PAQ family).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from prequential.coding.bits import CODED_BITS, code_bit, stretch
from prequential.coding.coder import MEASURE, TOTAL_BITS, Code, rounded
from prequential.coding.vocabulary import Spelling, Vocabulary
from prequential.config import (
    MORE_CONTEXTS,
    OWN_CONTEXTS,
    SYMBOLS,
    Config,
    MemoryConfig,
    parse_grids,
)
from prequential.exact.compiled import inline, jit, optional, outer, pack
from prequential.predictors import certain, contexts, matches, mixer, tables
from prequential.predictors.certain import Certain
from prequential.predictors.contexts import Contexts, History, HistoryState
from prequential.predictors.matches import Matches
from prequential.predictors.mixer import Mixer, Mixing, Situation
from prequential.predictors.sample import SAMPLE
from prequential.predictors.tables import Found, Tables

if TYPE_CHECKING:
    from prequential.grids import Grid

numbers, noted = (optional(name, __package__) for name in ("numbers", "notes"))

_HALF = 32768


class State(NamedTuple):
    """All that `code_tokens` takes of a memory."""

    history: HistoryState
    spelling: Spelling
    contexts: Any  # `Contexts`, or packed; None where numbers are
    tables: Tables
    matches: Matches
    mixer: Mixer
    # Room for the loop.
    found: Found
    mixing: Mixing
    below: np.ndarray  # (V + 1,) int64: the frequencies of all tokens before each
    certain: Any  # `Certain`, or packed; None where tokens are longer
    numbers: Any  # `numbers.Numbers`, or packed; None elsewhere
    notes: Any = None  # a lane's `notes.Notes`, or packed; None where bits are learned at once


class Memory:
    """The tables, and the bytes so far of all streams."""

    def __init__(
        self,
        config: MemoryConfig,
        streams: int,
        vocabulary: Vocabulary,
        grids: list[Grid] | None = None,
        curvature_log2: int = 0,
    ) -> None:
        """grids are where numbers are, if anywhere; curvature_log2 is `MixerConfig`'s."""
        self.alone = config.alone > 0
        every = 1 << curvature_log2 if curvature_log2 else 0
        self.history = History(streams, vocabulary)
        self.grids = grids
        count = len(config.contexts) + OWN_CONTEXTS + MORE_CONTEXTS
        # Bits of a byte, and where pieces may end: the latter have tables of their own.
        kinds = 1 if max(vocabulary.lengths) == 1 else 2
        bytewise = kinds == 1 and len(vocabulary) == SYMBOLS
        # Four a context, three of order 1, two of the match, two of the expert, a constant.
        self.inputs = 4 * count + 8
        general = State(
            self.history.state,
            vocabulary.spelling,
            contexts.parse(config.contexts),
            tables.make(count, config.buckets, kinds, config.count_limit),
            matches.make(streams, config.window_log2, kinds),
            mixer.make(self.inputs, kinds, streams, config.mixer_rate, every),
            tables.room(count),
            mixer.room(self.inputs),
            np.zeros(len(vocabulary) + 1, np.int64),
            certain.make(config.certain, self.alone) if bytewise and config.certain else None,
            None,
        )
        if bytewise:
            _read(general, self.alone)
        self.states = [general]
        if grids:
            self.states.append(numbers.structure(general, grids, streams))
        self.packed = (pack(general), pack(self.states[1]) if grids else None)

    def start_at(self, starts: list[int]) -> None:
        """Where in the input each stream goes on."""
        for state in self.states:
            if state.numbers is not None:
                state.numbers.starts[:] = starts - state.matches.position

    def restore(self, data: np.ndarray, known: list[slice], before: int) -> list[slice]:
        """Put what is known of data (n,) uint8 in its own order: see `elements.restore`.

        So many bytes of the input come before it.
        """
        return numbers.restore(data, self.grids, known, before) if self.grids else known

    def code(
        self, mode: int, symbols: np.ndarray, frequencies: np.ndarray, first: int, code: Code
    ) -> float:
        """Code and learn; see `coder.SymbolCoder.code`. frequencies are the expert's.

        A memory that is alone has none, and asks for none.
        """
        code.positions[0], bits = code_tokens(
            mode, symbols, None if self.alone else frequencies, first, self.packed,
            code.intervals[0], code.bytes[0], code.positions[0],
        )  # fmt: skip
        return float(bits)

    def learn(self) -> None:
        """The chunk is over: everything is learned already."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything learned, by name."""
        named = {f"memory.{name}": array for name, array in self.history.arrays().items()}
        for prefix, s in zip(("memory", "numbers"), self.states, strict=False):
            structures: list[Any] = [s.tables, s.matches, s.matches.pointers, s.mixer]
            if s.certain is not None:
                structures.append(s.certain)
            if s.numbers is not None:
                structures += [s.numbers, s.numbers.squares, s.numbers.series]
            for structure in structures:  # some of whose fields have the same names
                for name, array in structure._asdict().items():
                    shared = any(array is other for other in named.values())
                    if isinstance(array, np.ndarray) and not shared:
                        named[f"{prefix}.{type(structure).__name__.lower()}.{name}"] = array
            if s.mixer.curvature is not None:
                for name in ("moments", "inverse", "bits"):
                    named[f"{prefix}.curvature.{name}"] = getattr(s.mixer.curvature, name)
        return named

    def weights(self) -> bytes:
        """All weights of the mixers' inputs."""
        general, *others = [s.mixer.weights for s in self.states]
        used = (general[..., : self.inputs], *others)
        return b"".join(weights.astype("<i4").tobytes() for weights in used)


def memory_of(config: Config, vocabulary: Vocabulary, threads: int) -> Memory:
    """The memory that a resolved config asks for."""
    if config.lanes:
        lanes: Memory = import_module(".lanes", __package__).Lanes(config, vocabulary, threads)
        return lanes
    grids, curvature_log2 = parse_grids(config.numbers), config.mixer.curvature_log2
    return Memory(config.memory, config.streams, vocabulary, grids, curvature_log2)


def _read(state: State, alone: bool) -> None:
    """Let the tables and the mixer of a state learn the sample, with a past of its own."""
    symbols = np.frombuffer(SAMPLE, np.uint8).copy()
    tokens = len(state.below) - 1
    apart = state._replace(
        history=History(1).state,
        matches=matches.make(1, 10, 1),
        mixer=state.mixer._replace(doubts=state.mixer.doubts[:1].copy()),
    )
    even = np.full((len(symbols), tokens), (1 << TOTAL_BITS) // tokens, np.int32)
    room = np.zeros(4, np.uint64), np.zeros(16, np.uint8)
    code_tokens(MEASURE, symbols, None if alone else even, 0, (pack(apart), None), *room, 0)


@inline
def _expected(frequencies: Any, i: Any) -> Any:
    """What an expert expects of token i, if there is one."""
    if frequencies is None:
        return None
    return frequencies[i]


@inline
def _heed(expected: Any, below: Any) -> None:
    """below (V + 1,) = how likely the expert takes all tokens before each, and all, to be."""
    if expected is not None:
        _sum_before(expected, below)


@jit
def _sum_before(frequencies: Any, below: Any) -> None:
    """below (V + 1,) = the sum of all frequencies (V,) before each, and of all."""
    total = np.int64(0)
    for s in range(len(frequencies)):
        below[s] = total
        total += frequencies[s]
    below[len(frequencies)] = total


@inline
def _cut(spelling: Any, low: Any, high: Any, depth: Any, byte: Any) -> Any:
    """The first token of low..high whose byte at `depth` is at least `byte`, else high."""
    offsets, letters = spelling.offsets, spelling.bytes
    if len(offsets) - 1 == len(letters) == 256:  # every byte is a token
        return (low + high) >> 1
    while low < high:
        middle = (low + high) >> 1
        if letters[offsets[middle] + depth] < byte:
            low = middle + 1
        else:
            high = middle
    return low


@jit
def _letters(last: Any) -> Any:
    """Which of the last four bytes are letters, a bit each."""
    letters = np.int64(0)
    for k in range(4):
        c = last[k]
        letters = letters * 2 + (1 if 65 <= c <= 90 or 97 <= c <= 122 or c >= 128 else 0)
    return letters


@inline
def _begin(state: Any, parsed: Any, known: Any, b: Any, first: Any) -> Any:
    """Find the hashes of all contexts before the next byte; first: it is the first of a token.

    One of parsed and known is None, and what asks for it is not compiled. Returns what the mixer is
    told of letters and place, behind what `numbers` are told of the byte.
    """
    hashes, last = state.found.hashes, state.history.bytes[b]
    matches.hash_own(state.matches, b, last, hashes[len(hashes) - OWN_CONTEXTS :])
    if known is not None:
        return numbers.begin(known, b, state.matches.position[b], last[0], hashes)
    if parsed is not None:
        contexts.hash_stream(state.history, b, Contexts(*parsed), hashes)
        more = hashes[len(parsed[0]) : len(hashes) - OWN_CONTEXTS]
        matches.hash_more(state.matches, b, last, state.history.words[b, 0], more)
        if first and len(state.mixer.weights) > 1:  # no longer piece fits here: other bytes follow
            for c in range(len(hashes)):
                hashes[c] = tables.remix(hashes[c], 2)
        return np.int64(0), _letters(last), state.history.place[b]
    return np.int64(0), np.int64(0), np.int64(0)


@inline
def _push(state: Any, parsed: Any, notes: Any, b: Any, byte: Any, starts: Any, sure: Any) -> None:
    """Take a byte in that came, the first of a token or not, nearly certain or not."""
    seen, history = state.matches, state.history
    last, word = history.bytes[b], history.words[b, 0]
    if notes is None and parsed is not None:  # no numbers
        matches.note_followers(seen, last, word, byte)
    matches.push(seen, b, last, byte, starts, notes)
    if notes is not None:
        string = seen.position[b] * len(seen.position) + b
        noted.note(notes, state.found.hashes, last, word, byte, string, sure)
    contexts.push_byte(history, b, byte)


@inline
def _expert_inputs(expected: Any, below: Any, low: Any, cut: Any, high: Any, x: Any) -> None:
    """x (3,) = what the expert's distribution says of cut..high among low..high, and 4 nats."""
    x[0] = 0
    x[1] = 0
    x[2] = 1024
    if expected is not None:
        p = ((below[high] - below[cut]) << 16) // (below[high] - below[low])
        x[0] = stretch(min(max(p, 1), 65535))
        x[1] = (p - _HALF) >> 5


@inline
def _number_inputs(known: Any, b: Any, unit: Any, k: Any, done: Any, x: Any) -> None:
    """x = what is expected of numbers, where there are any."""
    if known is not None:
        numbers.inputs(known, b, unit, k, done, x)


@inline
def _notes_of(packed: Any) -> Any:
    """A lane's notes, if it notes any."""
    if packed is None:
        return None
    return noted.Notes(*packed)


@inline
def state_of(packed: Any) -> Any:
    """The `State` again, inside a loop."""
    (
        history, spelling, parsed, tables_, matches_, mixer_, found, mixing, below, sure, known,
        notes,
    ) = packed  # fmt: skip
    return State(
        contexts.history_of(history),
        Spelling(*spelling),
        parsed,
        Tables(*tables_),
        matches.of(matches_),
        Mixer(*mixer_),
        Found(*found),
        Mixing(*mixing),
        below,
        sure,
        known,
        _notes_of(notes),
    )


@outer
def code_tokens(
    mode: Any,
    symbols: Any,
    frequencies: Any,
    first: Any,
    packed: Any,
    coder: Any,
    buffer: Any,
    size: Any,
) -> Any:
    """(size, bits): see `coder.SymbolCoder.code`; packed is a memory's, or a lane's."""
    general, within = packed
    state = state_of(general)
    bits = 0.0
    for i in range(len(symbols)):
        b = (first + i) % len(state.history.bytes)
        if _is_own(state.notes, b):
            token, size, spent = _code_either(
                mode, np.int64(symbols[i]), _expected(frequencies, i), b, state, within, coder,
                buffer, size,
            )  # fmt: skip
            symbols[i] = token
            contexts.push_token(state.history, b, token)
            bits += rounded(spent)
    return size, bits


@inline
def _is_own(notes: Any, b: Any) -> Any:
    """Whether stream b is coded here: a lane has its share of them, a whole memory all."""
    if notes is None:
        return True
    return noted.is_own(notes, b)


@inline
def _code_either(
    mode: Any,
    token: Any,
    expected: Any,
    b: Any,
    state: Any,
    within: Any,
    coder: Any,
    buffer: Any,
    size: Any,
) -> Any:
    """Code with the structure that the next token is for; expected (V,) is the expert's or None."""
    if within is not None:
        other = state_of(within)
        if numbers.inside(other.numbers, b, state.matches.position[b]):
            _heed(expected, state.below)
            return _code_token(mode, token, expected, b, other, coder, buffer, size)
    return _code_guessed(
        mode, token, expected, b, state, state.certain, state.notes, coder, buffer, size
    )


@inline
def _code_guessed(
    mode: Any,
    token: Any,
    expected: Any,
    b: Any,
    state: Any,
    sure: Any,
    notes: Any,
    coder: Any,
    buffer: Any,
    size: Any,
) -> Any:
    """`_code_token`, unless the byte is nearly certain and comes.

    sure and notes are the state's, or None.
    """
    spent = 0.0
    if sure is not None:
        guess = certain.guess(Certain(*sure), expected, matches.look(state.matches, b))
        if guess.p > 0:
            known = np.int64(1 if token == guess.byte else 0)
            right, size = code_bit(mode, coder, buffer, size, known, guess.p)
            spent = CODED_BITS - np.log2(np.float64(mixer.chance(guess.p, right)))
            if right:
                _push(state, state.contexts, notes, b, np.uint8(guess.byte), True, True)
                certain.learn(Certain(*sure), guess, guess.byte)
                return guess.byte, size, spent
    _heed(expected, state.below)
    token, size, more = _code_token(mode, token, expected, b, state, coder, buffer, size)
    if sure is not None:
        certain.learn(Certain(*sure), guess, token)
    return token, size, spent + more


@inline
def _code_token(
    mode: Any, known: Any, expert: Any, b: Any, state: Any, coder: Any, buffer: Any, size: Any
) -> Any:
    """(token, size, bits) of the next token of stream b, which is `known` to an encoder.

    expert (V,) are the frequencies that `state.below` has summed, or None.
    """
    history, spelling, below = state.history, state.spelling, state.below
    known_numbers, notes = state.numbers, state.notes
    found, mixing, offsets = state.found, state.mixing, spelling.offsets
    x, C = mixing.inputs, len(found.hashes)
    last, bits = history.bytes[b], 0.0
    # The tokens that are still possible, and how many of their bytes are coded.
    low, high, depth = np.int64(0), np.int64(len(offsets) - 1), np.int64(0)
    while True:
        inside = depth > 0 and offsets[low + 1] - offsets[low] == depth
        if inside and high - low == 1:
            break
        unit, letters, place = _begin(state, state.contexts, known_numbers, b, depth == 0)
        match, position = matches.look(state.matches, b), state.matches.position[b]
        byte = np.int64(1)  # the bits so far behind a leading 1
        half = -1  # of the byte that buckets were found for
        for k in range(-1 if inside else 0, 8):
            ends = 1 if k < 0 else 0  # Does a piece end here? A 1: it does not.
            done: Any = byte
            if ends:
                cut = low + 1
                done = min(depth, np.int64(15)) * 16 + contexts.octave(high - low, 15)
            else:
                cut = _cut(spelling, low, high, depth, ((2 * byte + 1) << (7 - k)) & 255)
            bit = np.int64(1 if cut == low else 0)
            if low < cut < high:
                if ends:
                    tables.find_ends(state.tables, found, last[0])
                elif k // 4 == half:
                    tables.find_nodes(found, k, byte, last[0])
                else:
                    half = k // 4
                    tables.find_buckets(state.tables, found, k, byte, notes)
                    tables.find_nodes(found, k, byte, last[0])
                tables.inputs(state.tables, ends, found, x)
                tables.run_inputs(state.tables, ends, found, k, byte, x[3 * C + 3 :])
                expected = matches.inputs(state.matches, ends, match, k, byte, x[4 * C + 3 :])
                _expert_inputs(expert, below, low, cut, high, x[4 * C + 5 :])
                _number_inputs(known_numbers, b, unit, k, byte, x[4 * C + 8 :])
                at = Situation(ends, max(k, 0), done, last, letters, place, expected.grade)
                trust = tables.trust(found)
                mixed = mixer.mix(state.mixer, mixing, at, trust)
                corrected = mixer.correct(state.mixer, at, b, mixed.logit)
                bit = np.int64(1 if known >= cut else 0)
                bit, size = code_bit(mode, coder, buffer, size, bit, corrected.p)
                bits += CODED_BITS - np.log2(np.float64(mixer.chance(corrected.p, bit)))
                mixer.learn_weights(state.mixer, mixing, ends, mixed, position, bit)
                mixer.learn_corrections(state.mixer, ends, b, corrected, bit)
                tables.learn(state.tables, ends, found, bit, notes)
                tables.learn_runs(state.tables, found, k, bit)
                matches.learn(state.matches, ends, match, expected, bit)
            low, high = (cut, high) if bit else (low, cut)
            if not ends:
                byte = 2 * byte + bit
            elif not bit:
                break
        if high - low == 1 and offsets[high] - offsets[low] == depth:
            break
        tables.push(state.tables, found, byte & 255, notes)
        _push(state, state.contexts, notes, b, np.uint8(byte & 255), depth == 0, False)
        depth += 1
    return low, size, bits
