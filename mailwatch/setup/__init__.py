"""Sets up a mailbox: finds its servers, tests the login, writes config.yaml.

`mailwatch init` and the browser share it. Nothing here prints or asks: a caller shows what these
functions return, and gives the user's answers.

checks       the rules of the config for single answers
servers      the possible servers of an address, by the catalogue
discovery    DNS records and usual host names
autoconfig   servers as the domain or Mozilla's ISPDB publishes them
search       the search as a whole, step by step, with the questions that only the user can answer
pages        the password of the pages
places       the data folder, the address of the pages, the container
login_test   the login at each server, as events
draft        what a set-up knows of the config that it writes
entries      the entries of a mailbox
config_text  the text of a config.yaml
code         the one-time code that opens the set-up in the browser
save         writes the config and the password file: both, or neither
texts        the texts of both languages
"""
