"""OAuth 2 for mailboxes whose providers demand it: the owner grants access once, tokens are had from that grant.

endpoints   which endpoints may be spoken to
request     one request to a token or device endpoint, within bounds
grant       the file with the refresh token
browser     `mailwatch login`: the authorization code flow with a loopback redirect
page        what the browser shows at its end
device      `mailwatch login --device`: a code to type in elsewhere
access      access tokens while MailWatch runs
"""
