"""The running service: it schedules probes, records what they observe, and publishes what follows.

schedule, runner    when to probe a target, and one probe of it, with its login or without
pipeline            probe, attribute, commit, detect, publish
restore             what the ledger says of the targets, at the start and at a reload
background          clock, guard, checkpoints, availability: what runs beside the probes
recorder            puts facts and outages on record
read_model          what the API and the pages show
startup, service    put together step by step; running, with its reload
process             the life of the process, with its signals and its watchdog
"""
