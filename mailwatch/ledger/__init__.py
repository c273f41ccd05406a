"""The transparency log: canonical entries, Merkle tree, signed checkpoints. Pure; the store keeps it."""
