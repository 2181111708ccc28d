# numcodecs has no types (0.17). Only what storage/encoding.py calls; goes when numcodecs has py.typed.
