"""An outage under the provider's own SLA rule, as far as arithmetic goes. Pure; no legal advice.

evaluate            the result by calendar window: share, tier, credit, deadline;
                    and the verification of a claim
owner_statement     the `claim` of outage.json: the owner's statement, the rule, and the result
sent_log            messages sent to the provider, with their dates
"""
