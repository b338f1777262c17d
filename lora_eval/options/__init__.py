"""What a person can set: one definition for each option, from which every surface is made."""
