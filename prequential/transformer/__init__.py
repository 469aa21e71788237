"""The dense network: model, optimizer, and its compiled step."""
