# numcodecs has no types (0.17). Only what storage/filing.py calls; goes when it ships py.typed.
