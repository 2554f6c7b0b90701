"""How fast networks are on this machine: beside each other, and beside what the machine can do."""
