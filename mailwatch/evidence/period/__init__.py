"""A month or a year as one file: how much of it each channel worked, and every outage in it.

replay      the account of a window from the entries of its range: the same code makes it and checks it
case        the range that proves a window, and what is claimed of it, as period.json
"""
