"""Conclusions from recorded facts, by pure functions: the same facts give the same result, live and in a replay.

detector, outage    when a target was down, and an outage as measured
outage_record       an outage with its subject: as recorded, or the current form of an open outage
public_json         the JSON of the API: outages, incidents and the other shapes
availability        how much of a window a service was up, with its coverage
incidents           outages of one provider that overlap
maintenance         announced maintenance, and its windows
offline             when our own line was down
replay              a target followed entry by entry
sla                 the promises of a provider
"""
