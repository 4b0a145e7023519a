"""Scoring on the board: the model, the answers, what is counted, and the port."""
