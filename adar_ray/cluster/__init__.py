"""Jobs on a Ray cluster: what is submitted, the client that submits it, and the driver that runs it."""
