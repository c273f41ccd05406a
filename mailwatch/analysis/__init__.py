"""What follows from recorded facts, by pure functions: the same facts give the same answer, live and in a replay.

detector, outage    when a target was down, and an outage as a fact
availability        how much of a time a service was up, with its coverage
incidents           outages of one provider that overlap
maintenance         what was announced, and when it is
offline             when our own line was down
replay              a target followed entry by entry
sla                 what a provider promises
"""
