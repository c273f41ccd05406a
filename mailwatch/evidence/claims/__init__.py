"""What an outage amounts to under a provider's own rule, as far as arithmetic goes. Pure; no legal advice.

evaluate            the figure and the provider's reading of it, by calendar window: share, tier, credit, deadline;
                    and the check of a claim
owner_statement     the `claim` of outage.json: what the owner says, the rule, and the reading
sent_log            what was sent to the provider, and when
"""
