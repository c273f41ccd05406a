"""Several people's bundles as one case: when how many independent vantage points saw a channel down.

member      one bundle, verified, and what is kept of it
quorum      when at least k of n saw a channel down, by provider and channel, as joint.json
bundle      the joint zip, written
verify      the joint zip, checked
"""
