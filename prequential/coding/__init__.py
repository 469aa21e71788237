"""Symbols and bits to bytes: range coder, encoder, vocabulary, tokenizer."""
