"""Chaos: the real `mailwatch run` against real servers, while it is killed, starved, damaged and lied to.

figures        what is counted, and which promise was broken
lab            the servers, and a MailWatch on them
promises       what must hold whatever happens
kills          kill -9 at random moments
pages          each page of the database damaged, before a start and while it runs
full_disk      a disk that is full at each step
clock          a wall clock that is wrong by minutes to years
limits         no file handles, no memory, no threads
slow_disk      an fsync of five seconds
hostile        servers that break every rule, for hours of virtual time
nodes          two nodes with one ledger in PostgreSQL, of which the active one is lost
web_clients    web clients that send half a request, or never read an answer

`python -m tests.chaos` runs them; docs/explanation/reliability.md keeps the figures.
"""
