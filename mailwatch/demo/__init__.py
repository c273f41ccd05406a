"""A stand-in mail provider that breaks on a script, so that MailWatch can be seen at work in a minute.

certificate   a throw-away authority and the stand-in's certificate
dialogue      lines in, lines out, in the mood of the moment
imap, smtp    what the stand-in can say
provider      its listeners, and the truth about when it was down
performance   from curtain to curtain, with `mailwatch run` in a process of its own
script        what breaks when, and the config to watch it with
display       what a terminal or a pipe gets to see; words: in two languages
witness       what MailWatch says over its HTTP API, beside the truth
"""
