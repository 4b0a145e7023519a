"""The TUF repository: what is released, by whose signatures.

state        the metadata as it lies in the depot, and what it is called there
ceremony     the first metadata, and the keys behind it
staged       the next metadata, until enough people have signed it
repository   all of it together
drop         a folder for a stick
"""
