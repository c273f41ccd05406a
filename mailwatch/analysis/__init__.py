"""Conclusions from recorded facts, by pure functions: the same facts give the same result, live and in a replay.

detector, outage    when a target was down, and an outage as it is measured
outage_record       an outage with what it is of: on record, and as an open one stands now
public_json         the JSON of the API: outages, incidents and the other shapes
availability        how much of a time a service was up, with its coverage
incidents           outages of one provider that overlap
maintenance         what was announced, and when it is
offline             when our own line was down
replay              a target followed entry by entry
sla                 what a provider promises
"""
