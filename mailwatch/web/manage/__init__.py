"""The pages that set up and manage MailWatch: plain forms, which also work without JavaScript.

sessions        the forms' sessions, in memory, and their tokens against requests of other sites
forms           the bodies of forms, bounded
mailbox_setup   the set-up of one mailbox: its search, its login test; without HTTP
access_grant    access by OAuth 2, with a code that the owner enters in any browser
mailbox_pages   the routes of these steps
setup_pages     the first set-up: the code, the password of the pages, the end
manage_pages    management: mailboxes, channels, the time zone
channels        the forms of notification channels
zones           the time zones that the forms offer
texts           the texts of both languages
app             all of it as one app
"""
