"""What predicts from hashed contexts of the past: embeddings, n-gram logits, the memory."""
