"""The running service: schedules probes, records observations, and publishes states, outages and metrics.

schedule, runner    when to probe a target, and one probe of it, with or without its login
pipeline            probe, attribute, commit, detect, publish
restore             restores targets from the ledger, at the start and at a reload
background          loops beside the probes: clock, guard, checkpoints, availability
recorder            records facts and outages
read_model          data for the API and the pages
startup, service    the start, step by step; the running service, with its reload
membership, prober  this process among the nodes of its ledger, and the probes that it makes for the active one
process             the life of the process, with its signals and its watchdog
"""
