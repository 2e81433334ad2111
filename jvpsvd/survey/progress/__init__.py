"""How far a run is: on the terminal, in its journals, and for a process that asks later."""
