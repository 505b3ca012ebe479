"""What follows from a request: cells, the stages they share, and the key of each."""
