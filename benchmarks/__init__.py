"""How MailWatch compares with its peers, measured in one run on one machine: `python -m benchmarks`.

Everything stays on the loopback address; every load is bounded in number and time.
"""
