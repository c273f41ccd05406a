"""Programs for those who work on MailWatch: pages of docs/ made from code, and checks of what is written."""
