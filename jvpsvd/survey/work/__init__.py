"""How a run is computed: photos are read, solved and stored, here or by workers of Ray."""
