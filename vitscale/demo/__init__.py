"""The demonstration: the commands a user would type, in order, on real images, with a worker killed midway."""
