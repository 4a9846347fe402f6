"""How fast this machine is: every figure is a record with its conditions."""
