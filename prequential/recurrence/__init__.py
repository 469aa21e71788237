"""The recurrent network: layers of LSTM cells that a step a chunk teaches, on the host."""
