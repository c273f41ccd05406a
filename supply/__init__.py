"""What MailWatch is made of, for those who must answer for it. No part of the package that users install."""
