"""What runs a network: programs, and the interface that every engine has."""
