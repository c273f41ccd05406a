"""Several people's bundles as one case: when how many independent vantage points observed a channel down.

member      one verified bundle, and the facts kept from it
quorum      when at least k of n observed a channel down, by provider and channel, as joint.json
bundle      writes the joint zip
verify      verifies a joint zip
"""
