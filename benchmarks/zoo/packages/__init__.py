"""The packages of the zoo, one file each: what they need, their networks, and the tables by hand."""
