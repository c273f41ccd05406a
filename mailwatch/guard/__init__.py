"""Decides whether a failure is ours: the checks of our own side before a failure is attributed to the provider.

connectivity    are we online, for each address family, and does the resolver give true answers
attribution     whose failure it is: the provider's, or our line's, our clock's, our machine's
"""
