"""OAuth 2 for mailboxes whose providers require it: the owner grants access once, which then yields tokens.

http        one request to a token or device endpoint, within bounds
grant       the file with the refresh token
flows       `mailwatch login`: in the browser on this machine, or by a code typed into one elsewhere
tokens      access tokens while MailWatch runs, and probes that need one
"""
