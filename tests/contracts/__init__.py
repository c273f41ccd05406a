"""Snapshots of every public contract: a change of one shows in the diff of tests/testdata/contracts/expected.

`python -m tests.contracts --write` rewrites them. One child process makes them all (produce.py), from two stored
installations, at a stored time, in Rome, as version 0.1.0; what depends on the machine is left out.
"""
