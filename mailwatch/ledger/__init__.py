"""The transparency log: canonical entries, Merkle tree, signed checkpoints. Pure; mailwatch.store persists it."""
