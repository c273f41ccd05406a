"""What an outage amounts to under a provider's own rule, as far as arithmetic goes. Pure; no legal advice.

reading     the raw figure and the provider's reading of it, by calendar window: share, tier, credit, deadline
stated      the `claim` of outage.json: what the owner says, the rule, and the reading; and its check
"""
