"""Predict and learn: the transformer, its input embeddings and the n-gram logits as one predictor.

What is sparse (embeddings, n-grams) lives on the host, the dense transformer on the device. The
probabilities that the gradient sees are the very frequencies that are coded.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from prequential import kernels
from prequential.coder import TOTAL_BITS
from prequential.columns import Columns
from prequential.config import Config
from prequential.contexts import History
from prequential.embeddings import Embeddings
from prequential.model import SYMBOLS, Transformer
from prequential.ngrams import Ngrams
from prequential.optimizer import Optimizer


class Learner:
    """The state that encoder and decoder build in step, from the seed and the bytes paid for."""

    def __init__(self, config: Config, seed: int, device: str = "cpu", threads: int = 1) -> None:
        """config is resolved: see `Config.resolve`. Threads and device do not change a bit."""
        B, T = config.streams, config.chunk
        self.B, self.device = B, torch.device(device)
        self.history = History(B)
        self.embeddings = Embeddings(config.model, B, T, seed)
        self.model = Transformer(config.model, B, T, seed, device)
        # Elsewhere than on the CPU, a column is a chunk of one column.
        self.columns = Columns(self.model) if self.device.type == "cpu" else None
        self.ngrams = Ngrams(config.ngrams, B, T)
        self.optimizer = Optimizer(config.optimizer)
        self.frequencies = np.zeros((T * B, SYMBOLS), np.int32)
        self._pool = ThreadPoolExecutor(1) if threads > 1 else None

    def predict(self, chunk: np.ndarray) -> np.ndarray:
        """Frequencies (T * B, 256) int32 of a known chunk (T, B) uint8, in one forward pass."""
        for t, symbols in enumerate(chunk):
            self._locate(t)
            self.history.push(symbols)
        return self._forward(0, len(chunk))

    def predict_column(self, column: int) -> np.ndarray:
        """Frequencies (B, 256) int32 of the next column, given the columns observed before."""
        self._locate(column)
        if self.columns is None:
            return self._forward(column, column + 1)
        if column == 0:
            self.columns.refresh()
        rows = torch.from_numpy(self.embeddings.gather(column, column + 1))
        return self._frequencies(self.columns.forward(rows, column), column)

    def observe(self, symbols: np.ndarray) -> None:
        """Take in a decoded column (B,) uint8."""
        self.history.push(symbols)

    def learn(self, chunk: np.ndarray, count: int) -> None:
        """One step on the first `count` tokens of the chunk (T, B), whose frequencies are known."""
        rows = len(chunk) * self.B
        targets = chunk.reshape(-1)
        # p - y, exact: frequencies are below 2^24. Rows past the end of the data teach nothing.
        dlogits = self.frequencies[:rows].astype(np.float32) * np.float32(2.0**-TOTAL_BITS)
        dlogits[np.arange(rows), targets] -= np.float32(1)
        dlogits[count:] = 0
        # The tables and the transformer learn independently of each other.
        if self._pool is not None:
            tables = self._pool.submit(self.ngrams.learn, dlogits[:count], targets[:count])
            self._learn_dense(dlogits, count, len(chunk))
            tables.result()
        else:
            self.ngrams.learn(dlogits[:count], targets[:count])
            self._learn_dense(dlogits, count, len(chunk))

    def parameter_count(self) -> int:
        """Numbers in the transformer's weights; the sparse tables are not counted."""
        return sum(weight.value.numel() for weight in self.model.weights)

    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of the dense weights and gates, which depend on everything else."""
        sha = hashlib.sha256()
        for weight in self.model.weights:
            sha.update(weight.value.cpu().numpy().astype("<f4").tobytes())
        for gates in (self.ngrams.gates, self.ngrams.biases):
            sha.update(gates.astype("<f4").tobytes())
        return sha.digest()

    def _locate(self, column: int) -> None:
        self.embeddings.locate(self.history, column)
        self.ngrams.locate(self.history, column)

    def _forward(self, first: int, end: int) -> np.ndarray:
        rows = torch.from_numpy(self.embeddings.gather(first, end)).to(self.device)
        return self._frequencies(self.model.forward(rows, first), first)

    def _frequencies(self, model_logits: torch.Tensor, first: int) -> np.ndarray:
        logits = model_logits.cpu().numpy()  # (n, 256)
        self.ngrams.add_logits(logits, first)
        frequencies = self.frequencies[first * self.B :][: len(logits)]
        kernels.frequencies(logits, TOTAL_BITS, frequencies)
        return frequencies

    def _learn_dense(self, dlogits: np.ndarray, count: int, columns: int) -> None:
        gradient = self.model.backward(torch.from_numpy(dlogits).to(self.device))
        self.optimizer.step(self.model.weights, count)
        self.embeddings.learn(gradient.cpu().numpy()[:count])
        self.model.advance(columns)
