"""Several nodes of one vantage point that probe at the same time: one judges, all probe.

The active node schedules, gates logins, judges, records, seals and notifies, as it does alone. What it shares out
is the probe itself: a job goes to another node, and its observation comes back (docs/explanation/architecture.md).

division     which node probes which targets: 256 shares, moved as little as possible
eligibility  which nodes may probe, and why another one may not
messages     jobs and results as JSON, checked when they come (shapes)
clocks       another node's steady clock on ours, with the error of that
exchange     sends and takes messages through the database, in a thread of its own
dispatcher   the active node's side: sends jobs, awaits results, and gives up nodes that are lost
"""
