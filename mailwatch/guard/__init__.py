"""Is the failure ours? What is asked of our own side before a failure is the provider's.

connectivity    are we online, for each address family, and does the resolver give true answers
attribution     whose failure it is: the provider's, or our line's, our clock's, our machine's
"""
