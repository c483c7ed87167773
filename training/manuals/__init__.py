"""Training groups out of the manuals of free software.

Encyclopaedias, which most training groups are made of, hardly speak of accounts, mail, files and
settings. Manuals that Debian distributes do, under licences that allow to train on them.
"""
