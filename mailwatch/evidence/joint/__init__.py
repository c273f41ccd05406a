"""Several people's bundles as one case: when how many independent vantage points saw a channel down.

member      one bundle, checked, and what is kept of it
sweep       pure: times at which at least k of n spans overlap
joint       grouping by provider and channel, and joint.json
"""
