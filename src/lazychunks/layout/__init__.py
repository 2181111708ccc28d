"""Where blocks lie, and what is stored as one: integers and tuples only."""
